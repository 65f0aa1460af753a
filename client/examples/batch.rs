//! Several rows of several tables in one request: all of it or nothing.
//!
//! `cargo run -p lockstep-client --example batch`, with `LOCKSTEP_URL` set.

use lockstep_client::{Client, Code, Record, Result, TableBuilder, record};

record! {
    /// Orders and their lines share the partition of the customer: such a batch needs one log.
    struct Order in "batch_orders" {
        #[key(partition)]
        customer: u64,
        #[key]
        number: u64,
        total: i64,
    }
}

record! {
    struct Line in "batch_lines" {
        #[key(partition)]
        customer: u64,
        #[key]
        order: u64,
        #[key]
        line: u32,
        article: String,
        price: i64,
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let db = Client::from_env().await?;
    create::<Order>(&db).await?;
    create::<Line>(&db).await?;
    let (orders, lines) = (db.table::<Order>(), db.table::<Line>());

    let (customer, number) = (7, 1);
    let articles = [("hammer", 1999), ("nails", 350), ("plank", 870)];
    let mut batch = db.batch();
    for ((article, price), line) in articles.into_iter().zip(1..) {
        let article = article.to_owned();
        batch.push(lines.upsert(&Line { customer, order: number, line, article, price }));
    }
    let total = articles.iter().map(|(_, price)| price).sum();
    batch.push(orders.upsert(&Order { customer, number, total }));
    println!("{} rows in one request", batch.len());
    batch.execute().await?;

    // The first failure undoes the whole batch, and says which operation it was.
    let failed = db
        .batch()
        .with(orders.patch((customer, number)).add("total", 500))
        .with(lines.insert(&Line {
            customer,
            order: number,
            line: 1,
            article: "a second first line".into(),
            price: 500,
        }))
        .execute()
        .await;
    match failed {
        Ok(_) => println!("that should not have worked"),
        Err(error) => println!("operation {:?} failed: {error}", error.operation()),
    }
    let order = orders.get((customer, number)).await?;
    println!("the total is still {:?}", order.map(|order| order.total));
    Ok(())
}

async fn create<R: Record>(db: &Client) -> Result<()> {
    match db.create_table(TableBuilder::of::<R>()).await {
        Err(error) if error.error_code() != Code::TableExists => Err(error),
        _ => Ok(()),
    }
}
