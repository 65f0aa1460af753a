//! The door: connecting, and what a connected client offers.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use lockstep_proto::durability::Durability;
use lockstep_proto::error::Code;
use lockstep_proto::ids::{NodeId, PartitionId, ShardId};
use lockstep_proto::orders::Order;
use lockstep_proto::view::View;
use lockstep_proto::wire::client::ShardStatus;
use lockstep_runtime::EmbeddedOptions;

use crate::arbitrate::Arbitrating;
use crate::attend::Connection;
use crate::batch::Batch;
use crate::catalog::Catalog;
use crate::core::{Call, CallError, ClientCore, ClientOptions, Completion, Reply};
use crate::error::{Error, Result};
use crate::record::Record;
use crate::row::Row;
use crate::table::{Table, TableCore};
use crate::url;

/// Names the cluster for [`Client::from_env`].
pub const URL_VARIABLE: &str = "LOCKSTEP_URL";

/// Names this process's zone for [`Client::from_env`] and [`Client::connect`], unless the URL does.
pub const ZONE_VARIABLE: &str = "LOCKSTEP_ZONE";

/// A connected client. Cheap to clone; all clones share a few connections, which are closed when
/// the last clone is dropped. It follows the cluster's view changes by itself.
///
/// ```no_run
/// # async fn run() -> lockstep_client::Result<()> {
/// use lockstep_client::{Client, TableBuilder};
///
/// lockstep_client::record! {
///     struct Account in "accounts" { #[key] id: u64, balance: i64 }
/// }
///
/// let db = Client::connect("lockstep://mgm1,mgm2:1186?zone=a").await?;
/// db.create_table(TableBuilder::of::<Account>()).await?;
/// let accounts = db.table::<Account>();
/// accounts.insert(&Account { id: 7, balance: 100 }).await?;
/// assert_eq!(accounts.get(7_u64).await?.map(|a| a.balance), Some(100));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client(pub(crate) Arc<Shared>);

/// What all clones of a client share.
pub(crate) struct Shared {
    pub(crate) connection: Connection,
    pub(crate) arbitrating: Option<Arc<Arbitrating>>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) partitions: u16,
    pub(crate) deadline: Duration,
    pub(crate) durability: Durability,
    /// Those it started with.
    pub(crate) addresses: Arc<[String]>,
}

/// How to connect. [`Client::builder`] starts one.
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientBuilder {
    options: Result<ClientOptions>,
    embedded: EmbeddedOptions,
}

impl ClientBuilder {
    /// Adds a management server or data node to start with, `host` or `host:port`.
    pub fn address(mut self, address: &str) -> Self {
        let parsed = url::address(address).ok_or_else(|| {
            Error::new(Code::BadAddress, format!("no host, or a wrong port, in {address:?}"))
        });
        match (&mut self.options, parsed) {
            (Ok(options), Ok(address)) => options.addresses.push(address),
            (options @ Ok(_), Err(error)) => *options = Err(error),
            (Err(_), _) => {}
        }
        self
    }

    /// The availability zone this process is in: reads prefer replicas there.
    pub fn zone(self, zone: impl Into<String>) -> Self {
        let zone = zone.into();
        self.set(|options| options.zone = zone)
    }

    /// The host this process is on, as nodes' addresses write it: reads prefer replicas there.
    pub fn host(self, host: impl Into<String>) -> Self {
        let host = host.into();
        self.set(|options| options.host = host)
    }

    /// How long a call may take, retries included. Ten seconds unless set.
    pub fn deadline(self, deadline: Duration) -> Self {
        self.set(|options| options.deadline = deadline)
    }

    /// How long a connection that owes an answer may be silent before it is given up. Two seconds
    /// unless set; a node that dies is noticed sooner, by the next view.
    pub fn unreachable_after(self, silence: Duration) -> Self {
        self.set(|options| options.unreachable_after = silence)
    }

    /// Offers this process as arbitrator, under a name that `lockstep status` shows: it decides
    /// which half of a split cluster goes on when no management server is there. It costs one
    /// connection to each data node. Offer processes that run for long, in a zone of their own or
    /// in several, at most sixteen.
    pub fn arbitrator(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.set(|options| options.arbitrator = Some(name))
    }

    /// A name for the log.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.embedded.name = name.into();
        self
    }

    /// Addresses to use for some nodes instead of their own: where a proxy stands in between.
    pub fn peer_addresses(mut self, addresses: BTreeMap<NodeId, String>) -> Self {
        self.embedded.peer_addrs = addresses;
        self
    }

    /// Connects, on the current tokio runtime; returns once some server has told the view.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Configuration`] if the options make no sense,
    /// [`crate::ErrorKind::Unavailable`] if nobody answers before the deadline.
    pub async fn connect(self) -> Result<Client> {
        let mut options = self.options?;
        if options.addresses.is_empty() {
            return Err(Error::new(Code::BadAddress, "no address was given"));
        }
        options.seed = RandomState::new().hash_one(std::process::id());
        let (deadline, addresses) = (options.deadline, options.addresses.clone().into());
        let arbitrator = options.arbitrator.clone();
        let connection = Connection::spawn(ClientCore::new(options), self.embedded.clone());
        let view = view_of(connection.call(Call::View).await)?;
        let arbitrating =
            arbitrator.map(|name| Arc::new(Arbitrating::begin(&name, &view, &self.embedded)));
        let partitions = u16::try_from(view.placements.len()).expect("bounded by PARTITIONS_MAX");
        let (catalog, durability) = (Arc::default(), Durability::default());
        let shared = Shared {
            connection,
            arbitrating,
            catalog,
            partitions,
            deadline,
            durability,
            addresses,
        };
        Ok(Client(Arc::new(shared)))
    }

    fn set(mut self, set: impl FnOnce(&mut ClientOptions)) -> Self {
        if let Ok(options) = &mut self.options {
            set(options);
        }
        self
    }
}

impl Client {
    /// Connects to the cluster a URL names: `lockstep://host:port,host2:port?zone=a`. Hosts are
    /// management servers or data nodes; one that answers is enough. Settings are `zone`, `host`
    /// and `deadline_ms`.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub async fn connect(url: &str) -> Result<Self> {
        Self::at(url).connect().await
    }

    /// Connects to the cluster that the environment names in `LOCKSTEP_URL`, in the zone that
    /// `LOCKSTEP_ZONE` names.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub async fn from_env() -> Result<Self> {
        let missing = |_| Error::new(Code::BadAddress, format!("{URL_VARIABLE} is not set"));
        Self::connect(&std::env::var(URL_VARIABLE).map_err(missing)?).await
    }

    /// Starts with no address.
    pub fn builder() -> ClientBuilder {
        ClientBuilder {
            options: Ok(ClientOptions::default()),
            embedded: EmbeddedOptions::default(),
        }
    }

    /// Starts with what a URL says, and the zone of the environment if it names none.
    pub fn at(url: &str) -> ClientBuilder {
        let zone = std::env::var(ZONE_VARIABLE).unwrap_or_default();
        let options = url::parse(url).map(|mut options| {
            if options.zone.is_empty() {
                options.zone = zone;
            }
            options
        });
        ClientBuilder { options, embedded: EmbeddedOptions::default() }
    }

    /// The same client, whose commits are acknowledged when they are in memory or on disk; this
    /// one stays as it is, and both share their connections. What is read does not depend on it.
    ///
    /// ```no_run
    /// # use lockstep_client::{Client, Durability, Error, Result};
    /// # lockstep_client::record! { struct Account in "accounts" { #[key] id: u64, balance: i64 } }
    /// # async fn run(db: Client) -> Result<()> {
    /// let on_disk = db.with_durability(Durability::Disk);
    /// on_disk.table::<Account>().insert(&Account { id: 7, balance: 100 }).await?;
    /// on_disk
    ///     .transaction(|tx| async move {
    ///         tx.table::<Account>().insert(&Account { id: 8, balance: 1 }).await?;
    ///         Ok::<_, Error>(())
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_durability(&self, durability: Durability) -> Self {
        let Shared { connection, arbitrating, catalog, partitions, deadline, .. } = &*self.0;
        let (partitions, deadline) = (*partitions, *deadline);
        let (connection, catalog) = (connection.clone(), Arc::clone(catalog));
        let (arbitrating, addresses) = (arbitrating.clone(), Arc::clone(&self.0.addresses));
        Self(Arc::new(Shared {
            connection,
            arbitrating,
            catalog,
            partitions,
            deadline,
            durability,
            addresses,
        }))
    }

    /// The addresses it was given to start with.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.0.addresses
    }

    /// When commits of this client are acknowledged.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.0.durability
    }

    /// The table of a record type. Nothing travels; the table is looked up at first use.
    #[must_use]
    pub fn table<R: Record>(&self) -> Table<R> {
        Table::new(TableCore::new::<R>(&self.0, R::TABLE.into()))
    }

    /// A table of a record type under another name than the type says.
    #[must_use]
    pub fn table_as<R: Record>(&self, name: &str) -> Table<R> {
        Table::new(TableCore::new::<R>(&self.0, name.into()))
    }

    /// A table by name, with rows of whatever columns it has.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Schema`] if there is no such table.
    pub async fn table_named(&self, name: &str) -> Result<Table<Row>> {
        let table = Table::new(TableCore::new::<Row>(&self.0, name.into()));
        table.core().bound().await?;
        Ok(table)
    }

    /// An empty batch: operations on any tables that happen together or not at all.
    pub fn batch(&self) -> Batch {
        Batch::new(Arc::clone(&self.0))
    }

    /// Whether the cluster's view names this process as the arbitrator: it has offered itself (see
    /// [`ClientBuilder::arbitrator`]) and no management server is there.
    pub fn arbitrates(&self) -> bool {
        self.0.arbitrating.as_ref().is_some_and(|arbitrating| arbitrating.is_named())
    }

    /// All partitions; the same for all tables.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..self.0.partitions).map(PartitionId)
    }

    /// The newest view: nodes, zones, roles. Changes with every failure and return.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] never happens once connected.
    pub async fn view(&self) -> Result<Arc<View>> {
        view_of(self.call(Call::View).await)
    }

    /// What one shard of a node knows about itself.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] if the node is not in the view or does not answer.
    pub async fn status(&self, node: NodeId, shard: ShardId) -> Result<Box<ShardStatus>> {
        match self.call(Call::Status { node, shard }).await? {
            Reply::Status(status) => Ok(status),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks a data node to leave the cluster in good order, as SIGTERM does: open transactions end,
    /// the others take over, then its process ends. With `again` it comes back at once, as a new
    /// life with what it has on its disk. Returns when the node has heard it, before it has left.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] if the node is not in the view or does not answer.
    pub async fn leave(&self, node: NodeId, again: bool) -> Result<()> {
        match self.call(Call::Leave { node, again }).await? {
            Reply::Status(_) => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Tells the cluster what its roster should be, by one of its nodes. It was told when this
    /// returns; that it was done, or will be, is shown by the view.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] if no node answers.
    pub async fn order(&self, order: Order) -> Result<()> {
        let view = self.view().await?;
        let mut nodes: Vec<NodeId> = view.in_sync().map(|m| m.instance.node).collect();
        let last = nodes.pop().unwrap_or_default();
        for node in nodes {
            if self.call(Call::Order { node, order: order.clone() }).await.is_ok() {
                return Ok(());
            }
        }
        match self.call(Call::Order { node: last, order }).await? {
            Reply::Status(_) => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Hands a call to the core as it is: encoded operations, no tables, no types. For tools that
    /// measure or compare.
    ///
    /// Dropping the future forgets the call; what was sent may still take effect.
    ///
    /// # Errors
    /// Whatever the core says.
    pub async fn call(&self, call: Call) -> Completion {
        self.0.connection.call(call).await
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("partitions", &self.0.partitions).finish_non_exhaustive()
    }
}

fn view_of(completion: Completion) -> Result<Arc<View>> {
    match completion? {
        Reply::View(view) => Ok(view),
        other => Err(unexpected(&other)),
    }
}

/// A core that answers with another kind of reply is broken; said, not panicked over.
pub(crate) fn unexpected(reply: &Reply) -> Error {
    CallError::refused(Code::Malformed, format!("an unexpected reply: {reply:?}")).into()
}
