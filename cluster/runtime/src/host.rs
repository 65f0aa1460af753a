//! The cores of one operating-system process, each on a thread of its own: a data node with its
//! shards, a management server, a newcomer. A core that ends the process ends all of them.
//!
//! Invariant: a panic in any thread ends the operating-system process at once: a core that is half
//! way through a change has nothing true to say any more.

use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded};
use lockstep_proto::ids::{ClusterId, Epoch, NodeId, ShardId};
use lockstep_proto::process::{Exit, Peer, Process};
use lockstep_proto::recovery::Recovery;
use lockstep_proto::wire::hello::Speaker;
use parking_lot::Mutex;

use crate::cores::Cores;
use crate::counters::Counters;
use crate::dial::Dialler;
use crate::disk::{DiskThreads, Lanes};
use crate::files::Disk;
use crate::limits::{CONNECTIONS_MAX, EXIT_TIME_MAX};
use crate::listen::{Doors, Listener};
use crate::reactor::{End, Outside, Reactor};
use crate::ready::{Notice, ReadyQueue};
use crate::signals::EndSignals;

/// How one operating-system process meets the world.
#[derive(Debug)]
pub struct HostOptions {
    /// Bound and listening.
    pub listener: TcpListener,
    /// Where `Effect::Store` puts files. The caller holds its lock.
    pub dir: PathBuf,
    /// The cluster, where it is known; peers of another one are refused.
    pub cluster: Option<ClusterId>,
    /// As whom the process speaks: `Control` for a data node, `Mgmt` or `Newcomer` otherwise.
    pub speaker: Speaker,
    /// Addresses to use instead of those the view names (`--peer N=ADDR`).
    pub peer_addrs: Vec<(NodeId, String)>,
    /// Most established connections.
    pub connections_max: usize,
    /// Who hears SIGTERM and SIGINT, if they ask the first core to leave; a second one ends the
    /// process.
    pub signals: Option<Arc<EndSignals>>,
    /// Counts of what went wrong at the edge.
    pub counters: Arc<Counters>,
    /// Where the cores can be asked how they are.
    pub cores: Arc<Cores>,
    /// Who reads the files of a data node that was started again.
    pub recoverer: Option<Arc<dyn Recoverer>>,
}

/// Reads a data node's own files, and keeps what it restores for the cores that are started next.
pub trait Recoverer: Send + Sync + std::fmt::Debug {
    /// Does what is wished, on a thread that may take its time: up to which epoch the files reach,
    /// or which one was restored.
    ///
    /// # Errors
    /// In words, why the files cannot be used for that.
    fn recover(&self, wish: &Recovery) -> Result<Epoch, String>;
}

impl HostOptions {
    /// Options with the usual limits, without signals and overrides.
    #[must_use]
    pub fn new(listener: TcpListener, dir: PathBuf, speaker: Speaker) -> Self {
        Self {
            listener,
            dir,
            cluster: None,
            speaker,
            peer_addrs: Vec::new(),
            connections_max: CONNECTIONS_MAX,
            signals: None,
            counters: Arc::default(),
            cores: Arc::default(),
            recoverer: None,
        }
    }

    fn dialler(&self, speaker: Speaker) -> Arc<Dialler> {
        Arc::new(Dialler {
            speaker,
            cluster: Mutex::new(self.cluster),
            peer_addrs: self.peer_addrs.iter().cloned().collect(),
        })
    }

    fn outside(&self, speaker: Speaker, disk: &Disk, lanes: Lanes) -> Outside {
        let name = match speaker {
            Speaker::Control(instance) | Speaker::Watch(instance) => format!("{instance}"),
            Speaker::Shard(instance, shard) => format!("{instance}/{shard}"),
            Speaker::Mgmt(id) => format!("{id}"),
            Speaker::Newcomer => "newcomer".into(),
            Speaker::Client => "client".into(),
        };
        Outside {
            name,
            dialler: self.dialler(speaker),
            counters: Arc::clone(&self.counters),
            disk: Some(disk.clone()),
            lanes,
            recoverer: self.recoverer.clone(),
        }
    }

    fn listen_for(&self, doors: Doors) -> Arc<Listener> {
        let counters = Arc::clone(&self.counters);
        Arc::new(Listener::new(doors, self.cluster, counters, self.connections_max))
    }
}

/// Runs one core on the calling thread's behalf until it ends: a management server, a newcomer, or
/// a data node that was started again and serves nobody yet (it speaks as a control core).
/// Gives the listener back, still bound (and non-blocking), for what comes next. The core's first
/// turn comes at once, with nothing but a `settle`, and a `Timeout` if it asks for one.
///
/// # Errors
/// What the system says when threads or the listener cannot be set up.
pub fn run_single<P>(process: P, options: HostOptions) -> io::Result<(Exit, TcpListener)>
where
    P: Process + Send + 'static,
{
    let mut disk_threads = DiskThreads::new();
    let disk = Disk::start(options.dir.clone(), &mut disk_threads)?;
    let lanes = match options.speaker {
        Speaker::Mgmt(_) => disk_threads.start_backup_lane(&options.dir, &options.counters)?,
        _ => Lanes::default(),
    };
    let outside = options.outside(options.speaker, &disk, lanes);
    let reactor = Reactor::new(process, outside);
    drop(disk);
    let queue = reactor.queue();
    let doors = match options.speaker {
        Speaker::Mgmt(id) => Doors::Mgmt { id, queue: Arc::clone(&queue) },
        Speaker::Control(instance) => Doors::Returned { instance, queue: Arc::clone(&queue) },
        _ => Doors::Closed,
    };
    let front = Front {
        listener: options.listen_for(doors),
        socket: options.listener.try_clone()?,
        signals: options.signals.clone(),
        queue: Arc::clone(&queue),
    };
    let mut threads = Threads::new(disk_threads, options.cores);
    threads.start("core".into(), reactor, Some(front))?;
    let exit = threads.wait(&[queue]);
    Ok((exit, options.listener))
}

/// Runs a data node until one of its cores ends it: `control` and its shards, each on a thread of
/// its own and joined by links in memory. `options.speaker` is `Speaker::Control`.
///
/// # Errors
/// What the system says when threads or the listener cannot be set up.
///
/// # Panics
/// If the options do not speak for a data node.
pub fn run_node<C, S>(control: C, shards: Vec<S>, options: HostOptions) -> io::Result<Exit>
where
    C: Process + Send + 'static,
    S: Process + Send + 'static,
{
    let Speaker::Control(instance) = options.speaker else {
        panic!("a data node speaks as a control core");
    };
    let mut disk_threads = DiskThreads::new();
    let disk = Disk::start(options.dir.clone(), &mut disk_threads)?;
    let outside = options.outside(options.speaker, &disk, Lanes::default());
    let mut control = Reactor::new(control, outside);
    let lanes = disk_threads.start_lanes(&options.dir, shards.len(), &options.counters)?;
    let mut shards: Vec<(ShardId, Reactor<S>)> = (0..)
        .map(ShardId)
        .zip(shards.into_iter().zip(lanes))
        .map(|(shard, (process, lanes))| {
            let outside = options.outside(Speaker::Shard(instance, shard), &disk, lanes);
            (shard, Reactor::new(process, outside))
        })
        .collect();
    drop(disk);
    for (shard, reactor) in &mut shards {
        control.join(Peer::Shard(instance, *shard), reactor, Peer::Control(instance));
    }
    for later in 1..shards.len() {
        let (before, rest) = shards.split_at_mut(later);
        let (shard, reactor) = &mut rest[0];
        for (sibling, other) in before {
            reactor.join(Peer::Shard(instance, *sibling), other, Peer::Shard(instance, *shard));
        }
    }
    let control_queue = control.queue();
    let shard_queues: Vec<_> = shards.iter().map(|(_, reactor)| reactor.queue()).collect();
    let mut queues = shard_queues.clone();
    queues.push(Arc::clone(&control_queue));
    let doors = Doors::Node { instance, control: Arc::clone(&control_queue), shards: shard_queues };
    let front = Front {
        listener: options.listen_for(doors),
        socket: options.listener.try_clone()?,
        signals: options.signals.clone(),
        queue: control_queue,
    };
    let mut threads = Threads::new(disk_threads, options.cores);
    for (shard, reactor) in shards {
        threads.start(format!("shard {}", shard.0), reactor, None)?;
    }
    threads.start("control".into(), control, Some(front))?;
    Ok(threads.wait(&queues))
}

/// What the first core's thread does beside driving it.
struct Front {
    listener: Arc<Listener>,
    socket: TcpListener,
    signals: Option<Arc<EndSignals>>,
    queue: Arc<ReadyQueue>,
}

impl Front {
    fn start(self) -> io::Result<()> {
        self.socket.set_nonblocking(true)?;
        let socket = tokio::net::TcpListener::from_std(self.socket)?;
        tokio::spawn(self.listener.run(socket));
        if let Some(signals) = self.signals {
            tokio::spawn(signals.pass_on(self.queue));
        }
        Ok(())
    }
}

/// The threads of one process and how they end.
struct Threads {
    ends: (Sender<io::Result<End>>, Receiver<io::Result<End>>),
    threads: Vec<JoinHandle<()>>,
    disk: DiskThreads,
    cores: Arc<Cores>,
}

impl Threads {
    fn new(disk: DiskThreads, cores: Arc<Cores>) -> Self {
        Self { ends: bounded(usize::from(u16::MAX)), threads: Vec::new(), disk, cores }
    }

    fn start<P>(&mut self, name: String, core: Reactor<P>, front: Option<Front>) -> io::Result<()>
    where
        P: Process + Send + 'static,
    {
        let ends = self.ends.0.clone();
        self.cores.enter(name.clone(), core.queue());
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let _abort = AbortOnPanic;
            let end = drive(core, front);
            // The receiver is gone only if the process is ending anyway.
            let _ending = ends.send(end);
        })?;
        self.threads.push(thread);
        Ok(())
    }

    /// Waits for the first end, ends the others, and returns it.
    fn wait(self, queues: &[Arc<ReadyQueue>]) -> Exit {
        let first = self.ends.1.recv().expect("this value holds a sender");
        self.cores.clear();
        for queue in queues {
            queue.post(Notice::Stop);
        }
        for _ in 1..self.threads.len() {
            if self.ends.1.recv_timeout(EXIT_TIME_MAX).is_err() {
                tracing::warn!("a thread does not end; the process ends without it");
                return exit_of(first);
            }
        }
        // The reactors and with them their requests are gone: the disk threads write what they
        // have and end.
        self.disk.wait();
        exit_of(first)
    }
}

fn exit_of(end: io::Result<End>) -> Exit {
    match end {
        Ok(End::Exit(exit)) => exit,
        Ok(End::Stopped) => Exit { code: 0, reason: "stopped".into() },
        Err(error) => Exit { code: 1, reason: format!("cannot set up a thread: {error}") },
    }
}

fn drive<P>(core: Reactor<P>, front: Option<Front>) -> io::Result<End>
where
    P: Process + Send + 'static,
{
    // While siblings keep a core awake without pause, its sockets are looked at this often.
    const TURNS_PER_LOOK: u32 = 4;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .event_interval(TURNS_PER_LOOK)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        if let Some(front) = front {
            front.start()?;
        }
        // A spawned task is woken within its thread without a system call; the root is not.
        // Its turns bound themselves, so tokio need not.
        let task = tokio::spawn(tokio::task::coop::unconstrained(core));
        Ok(task.await.unwrap_or_else(|_panicked| std::process::abort()))
    })
}

/// Ends the process when the thread or task that holds it unwinds.
pub(crate) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}
