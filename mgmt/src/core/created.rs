//! What a management server keeps of an existing cluster, and the rules for changing it.
//!
//! Its newest view is a copy for clients; the register is the real thing. A server that should
//! hold the register but has none (its directory was emptied) answers nobody: a made-up register
//! could grant the second half of a split.

use lockstep_proto::canary::Canary;
use lockstep_proto::ids::{Incarnation, MgmtId, NodeId, NodeInstance};
use lockstep_proto::process::{LogLevel, Outputs};
use lockstep_proto::register::{Answer, Register};
use lockstep_proto::roster::Newcomer;
use lockstep_proto::stored::{Admission, StoredCluster, StoredRegister};
use lockstep_proto::view::{Arbitrator, View, ViewIdentity};
use lockstep_proto::wire::control::{ControlMessage, Verdict};

/// An existing cluster.
pub(super) struct Created {
    cluster: StoredCluster,
    register: Option<Register>,
}

/// What became of a view that wants to be registered.
pub(super) struct Registration {
    pub(super) registered: bool,
    pub(super) register_changed: bool,
    pub(super) view_changed: bool,
    /// The register should be here and is not.
    pub(super) lost: bool,
}

/// Whether `arbitrator` is management server `id`.
pub(super) fn names(arbitrator: Option<&Arbitrator>, id: MgmtId) -> bool {
    matches!(arbitrator, Some(Arbitrator::Mgmt { id: named, .. }) if *named == id)
}

pub(super) fn log_register_lost(view: &View, out: &mut Outputs) {
    out.mark("arbitrator_without_register");
    let text = format!(
        "cluster {} counts on this server as arbitrator (view {}), but its register is not in this \
         directory: it answers no side of a split until a view names it anew, or another one; \
         that takes some seconds",
        view.cluster, view.number
    );
    out.log(LogLevel::Error, text);
}

impl Created {
    /// A new cluster.
    pub(super) fn new(cluster: StoredCluster, register: Register) -> Self {
        Self { cluster, register: Some(register) }
    }

    /// From the files of an earlier life. A register of another cluster is none.
    pub(super) fn restore(cluster: StoredCluster, register: Option<StoredRegister>) -> Self {
        let own = register.filter(|stored| stored.cluster == cluster.view.cluster);
        Self { cluster, register: own.map(|stored| stored.register) }
    }

    pub(super) fn view(&self) -> &View {
        &self.cluster.view
    }

    pub(super) fn register(&self) -> Option<&ViewIdentity> {
        self.register.as_ref().map(Register::view)
    }

    pub(super) fn stored_cluster(&self) -> &StoredCluster {
        &self.cluster
    }

    /// The register's file.
    ///
    /// # Panics
    /// If there is no register: only a changed one is stored.
    pub(super) fn stored_register(&self) -> StoredRegister {
        let register = self.register.clone().expect("a changed register is there");
        StoredRegister { cluster: self.cluster.view.cluster, register }
    }

    pub(super) fn text(&self) -> String {
        let view = self.view();
        format!(
            "created cluster {}: {} data nodes in {} groups, {} partitions",
            view.cluster,
            view.members.len(),
            view.groups().len(),
            view.placements.len()
        )
    }

    /// The answers to all newcomers, by address.
    pub(super) fn admit_all(&self) -> Vec<(String, ControlMessage)> {
        let admissions = self.cluster.admissions.iter();
        admissions.map(|a| (a.addr.clone(), self.admitted(first_life(a.node)))).collect()
    }

    /// A newcomer reports although the cluster exists: the same process gets the same answer.
    /// `None`: one that is new wants a seat, which the data nodes have to give.
    ///
    /// # Errors
    /// What, why and what to do now, for the newcomer's operator.
    pub(super) fn admit_again(
        &self,
        newcomer: &Newcomer,
        out: &mut Outputs,
    ) -> Result<Option<ControlMessage>, String> {
        let view = self.view();
        let has_seat = |a: &&Admission| {
            let seat = view.roster.seat(a.node);
            a.addr == newcomer.addr && seat.is_some_and(|seat| seat.addr == a.addr)
        };
        let at_addr = self.cluster.admissions.iter().find(has_seat);
        match at_addr {
            Some(admission) if admission.process == newcomer.process => {
                out.mark("newcomer_admitted_again");
                let instance = first_life(admission.node);
                if view.contains(instance) {
                    return Ok(Some(self.admitted(instance)));
                }
                Err(format!(
                    "cluster {} went on without node {instance} before it was ready (view {}); \
                     start it again on its directory",
                    view.cluster, view.number
                ))
            }
            Some(admission) => Err(format!(
                "node {} of cluster {} was started at {} before, with another directory or an \
                 earlier content of this one, and comes back only with the identity that is \
                 there: start it on that directory, with --initial if its data is damaged; if the \
                 directory is lost for good, `lockstep node remove {}` first; or create a new \
                 cluster, with an empty directory for its management server too",
                admission.node, view.cluster, admission.addr, admission.node.0
            )),
            None if view.roster.seat_of_process(newcomer.process).is_some() => Ok(None),
            None => view.check_newcomer(newcomer).map(|()| None),
        }
    }

    /// A side asks for its view. `None`: this server cannot answer.
    pub(super) fn on_ask(
        &mut self,
        counted: &[ViewIdentity],
        wanted: &ViewIdentity,
        canary: Option<Canary>,
        out: &mut Outputs,
    ) -> Option<Answer> {
        let Some(register) = &mut self.register else {
            log_register_lost(&self.cluster.view, out);
            return None;
        };
        let held = register.view().number;
        let answer = register.ask(counted, wanted, canary);
        match (&answer.verdict, answer.changed) {
            (Verdict::Granted, true) => out.mark("arbitrator_granted"),
            (Verdict::Granted, false) => out.mark("arbitrator_asked_again"),
            (Verdict::Refused { .. }, _) => out.mark("arbitrator_refused"),
        }
        if answer.changed && counted.iter().all(|view| view.number > held) {
            out.mark("arbitrator_register_lagged");
        }
        let text = format!("arbitrator: {:?} for {wanted:?}", answer.verdict);
        out.log(LogLevel::Info, text);
        Some(answer)
    }

    /// A view is in force, or about to be with this server as its new arbitrator.
    pub(super) fn on_register_view(
        &mut self,
        view: View,
        counted: &[ViewIdentity],
        own: MgmtId,
        canary: Option<Canary>,
        out: &mut Outputs,
    ) -> Registration {
        let identity = view.identity();
        let mut lost = false;
        let (registered, register_changed) = if !names(view.arbitrator.as_ref(), own) {
            // Whatever register there was is not asked any more; a later view begins another.
            (true, false)
        } else if let Some(register) = &mut self.register {
            let answer = register.ask(counted, &identity, canary);
            (answer.verdict == Verdict::Granted, answer.changed)
        } else if canary == Some(Canary::MakeUpRegister)
            || !names(self.cluster.view.arbitrator.as_ref(), own)
        {
            out.mark("arbitrator_appointed");
            self.register = Some(Register::new(identity.clone()));
            (true, true)
        } else {
            lost = true;
            log_register_lost(&view, out);
            (false, false)
        };
        let held = self.cluster.view.identity();
        let news = identity.number >= held.number && identity != held;
        let view_changed = (registered || lost) && news;
        if !registered {
            out.mark("registration_refused");
        }
        if view_changed {
            let members = &identity.members;
            out.log(LogLevel::Info, format!("view {}: {members:?}", identity.number));
            self.cluster.view = view;
        }
        Registration { registered, register_changed, view_changed, lost }
    }

    fn admitted(&self, instance: NodeInstance) -> ControlMessage {
        let view = self.view();
        ControlMessage::Admitted { cluster: view.cluster, instance, view: Box::new(view.clone()) }
    }
}

fn first_life(node: NodeId) -> NodeInstance {
    NodeInstance { node, incarnation: Incarnation(1) }
}
