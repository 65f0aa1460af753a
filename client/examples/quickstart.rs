//! Connect, create a table, write and read rows.
//!
//! Start a cluster and tell the examples where it is, then run any of them:
//!
//! ```sh
//! lockstep dev start
//! export LOCKSTEP_URL=lockstep://127.0.0.1:PORT    # as `lockstep dev status` says
//! cargo run -p lockstep-client --example quickstart
//! ```

use lockstep_client::{Client, Code, Result, TableBuilder, record};

record! {
    #[derive(Debug)]
    struct City in "quickstart_cities" {
        #[key]
        name: String,
        country: String,
        people: Option<u64>,
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let db = Client::from_env().await?;
    match db.create_table(TableBuilder::of::<City>()).await {
        Err(error) if error.error_code() == Code::TableExists => println!("the table is there"),
        created => println!("created a table of {} columns", created?.columns().len()),
    }
    let cities = db.table::<City>();

    let oslo = City { name: "Oslo".into(), country: "Norway".into(), people: Some(717_710) };
    cities.upsert(&oslo).await?;
    let rome = City { name: "Rome".into(), country: "Italy".into(), people: None };
    cities.upsert(&rome).await?;

    println!("{:?}", cities.get("Oslo").await?);
    for city in cities.get_many(["Rome", "Atlantis"]).await? {
        match city {
            Some(city) => println!("{} in {}: {:?} people", city.name, city.country, city.people),
            None => println!("no such city"),
        }
    }

    let changed = cities.patch("Rome").set("people", 2_748_109_u64).returning().await?;
    println!("{changed:?}");
    cities.delete("Oslo").await
}
