//! What an application sees when a node dies with answers it owed: mostly nothing, for the library
//! asks what became of the work. The three outcomes an error can have, and what to do about each.
//!
//! `cargo run -p lockstep-client --example lost_answer [SECONDS]`, with `LOCKSTEP_URL` set; kill
//! nodes meanwhile (`lockstep dev kill 2`). With a deadline as short as here, `Unknown` shows up
//! when the whole cluster is stopped.

use std::time::{Duration, Instant};

use lockstep_client::{Client, Code, Outcome, Result, TableBuilder, URL_VARIABLE, record};

record! {
    struct Ticket in "lost_answer_tickets" {
        #[key]
        id: u64,
        holder: String,
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(10);
    let url = std::env::var(URL_VARIABLE).unwrap_or_default();
    let db = Client::at(&url).deadline(Duration::from_secs(3)).connect().await?;
    match db.create_table(TableBuilder::of::<Ticket>()).await {
        Err(error) if error.error_code() != Code::TableExists => return Err(error),
        _ => {}
    }
    let tickets = db.table::<Ticket>();
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut sold, mut again, mut asked) = (0_u64, 0_u64, 0_u64);
    let mut id = u64::from(std::process::id()) << 32;
    while Instant::now() < end {
        id += 1;
        let ticket = Ticket { id, holder: format!("guest {id}") };
        match tickets.insert(&ticket).await {
            Ok(()) => sold += 1,
            Err(error) => match error.outcome() {
                // Nothing happened and nothing will: free to do something else.
                Outcome::NotApplied => {
                    println!("not sold: {error}");
                    again += 1;
                }
                // Committed; only rows it was to return are missing. Never the case here.
                Outcome::Applied => sold += 1,
                // Nobody could be asked in time. The row itself will tell, once somebody answers.
                Outcome::Unknown => {
                    println!("open: {error}; {}", error.hint().unwrap_or_default());
                    asked += 1;
                    sold += u64::from(tickets.get(id).await?.is_some());
                }
            },
        }
    }
    println!("{sold} sold, {again} not sold, {asked} had to be looked up");
    Ok(())
}
