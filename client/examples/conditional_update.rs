//! Updates with conditions: selling seats without overselling, in one round trip and without a
//! transaction around it; and compare-and-set by version.
//!
//! `cargo run -p lockstep-client --example conditional_update`, with `LOCKSTEP_URL` set.

use lockstep_client::{
    Client, Code, ErrorKind, Result, Table, TableBuilder, Timestamp, col, record,
};

const SEATS: i32 = 10;
const BUYERS: usize = 25;

record! {
    #[derive(Debug)]
    struct Concert in "concerts" {
        #[key]
        id: u64,
        title: String,
        seats_free: i32,
        version: u64,
        changed: Timestamp,
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let db = Client::from_env().await?;
    match db.create_table(TableBuilder::of::<Concert>()).await {
        Err(error) if error.error_code() != Code::TableExists => return Err(error),
        _ => {}
    }
    let concerts = db.table::<Concert>();
    let concert = Concert {
        id: 1,
        title: "Winterreise".into(),
        seats_free: SEATS,
        version: 1,
        changed: Timestamp::now(),
    };
    concerts.upsert(&concert).await?;

    let buyers: Vec<_> = (0..BUYERS).map(|_| tokio::spawn(buy(concerts.clone(), 1))).collect();
    let mut sold = 0;
    for buyer in buyers {
        sold += i32::from(buyer.await.expect("the task does not panic")?);
    }
    println!("{sold} of {SEATS} seats sold to {BUYERS} buyers");

    // Compare and set: only if nobody else has changed it since we looked.
    let seen = concerts.get(1_u64).await?.expect("it was just written");
    let rename = |title: &'static str| {
        concerts
            .patch(1_u64)
            .set("title", title)
            .set("changed", Timestamp::now())
            .add("version", 1_u64)
            .when(col("version").eq(seen.version))
    };
    println!("first: {:?}", rename("Die schöne Müllerin").returning().await?);
    match rename("Schwanengesang").await {
        Err(error) if error.kind() == ErrorKind::ConditionFailed => println!("second: {error}"),
        other => println!("the second should have failed: {other:?}"),
    }
    Ok(())
}

/// Buys a seat if there is one.
async fn buy(concerts: Table<Concert>, id: u64) -> Result<bool> {
    let seat = concerts.patch(id).add("seats_free", -1).when(col("seats_free").gt(0));
    match seat.await {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::ConditionFailed => Ok(false),
        Err(error) => Err(error),
    }
}
