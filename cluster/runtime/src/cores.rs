//! The cores that run in this operating-system process, for whoever asks how they are.
//!
//! Asking posts a notice to each core, which answers in its next turn: no core writes anything for
//! readers that may never come. Invariant: at most one question is with a core at any time, however
//! many ask and however long it does not answer.

use std::sync::Arc;
use std::time::Duration;

use lockstep_proto::report::Report;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::ready::{Notice, ReadyQueue};

/// The cores that run now; one value for the life of the process, while cores come and go.
#[derive(Debug, Default)]
pub struct Cores {
    running: Mutex<Vec<Arc<Running>>>,
    /// Held by who asks: the others wait for their turn, each no longer than it wants.
    asking: tokio::sync::Mutex<()>,
}

/// One core.
#[derive(Debug)]
struct Running {
    name: String,
    queue: Arc<ReadyQueue>,
    /// The answer to a question that is still with the core.
    unanswered: Mutex<Option<oneshot::Receiver<Option<Report>>>>,
}

/// What a core has said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// Its report.
    Report(Report),
    /// It has nothing to tell, or has just ended.
    Nothing,
    /// It does not answer: its turn takes longer than whoever asks would wait.
    Silent,
}

impl Cores {
    pub(crate) fn enter(&self, name: String, queue: Arc<ReadyQueue>) {
        let running = Running { name, queue, unanswered: Mutex::default() };
        self.running.lock().push(Arc::new(running));
    }

    pub(crate) fn clear(&self) {
        self.running.lock().clear();
    }

    /// What every core says, by its thread's name, within `patience`; `None` if others ask without
    /// end.
    pub async fn ask(&self, patience: Duration) -> Option<Vec<(String, Said)>> {
        let deadline = tokio::time::Instant::now() + patience;
        let _asking = tokio::time::timeout_at(deadline, self.asking.lock()).await.ok()?;
        let running = self.running.lock().clone();
        let questions: Vec<_> = running.iter().map(|core| core.question()).collect();
        let mut said = Vec::with_capacity(running.len());
        for (core, mut answer) in running.into_iter().zip(questions) {
            let what = match tokio::time::timeout_at(deadline, &mut answer).await {
                Ok(Ok(Some(report))) => Said::Report(report),
                Ok(Ok(None) | Err(_)) => Said::Nothing,
                Err(_) => {
                    *core.unanswered.lock() = Some(answer);
                    Said::Silent
                }
            };
            said.push((core.name.clone(), what));
        }
        Some(said)
    }
}

impl Running {
    /// Where the answer comes: to a new question, unless the core still has one.
    fn question(&self) -> oneshot::Receiver<Option<Report>> {
        let earlier = self.unanswered.lock().take();
        if let Some(mut earlier) = earlier
            && let Err(oneshot::error::TryRecvError::Empty) = earlier.try_recv()
        {
            return earlier;
        }
        let (answer, question) = oneshot::channel();
        self.queue.post(Notice::Ask { answer });
        question
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ready::Ready;

    fn answer_all(queue: &ReadyQueue) -> usize {
        let mut ready = Ready::default();
        queue.take(&mut ready, std::task::Waker::noop());
        let questions = ready.notices.len();
        for notice in ready.notices {
            let Notice::Ask { answer } = notice else { panic!("only questions are posted") };
            let report = Report::Newcomer { waits_for: "an answer".into() };
            let _nobody_waits = answer.send(Some(report));
        }
        questions
    }

    #[tokio::test]
    async fn a_core_that_does_not_answer_has_one_question_however_often_it_is_asked() {
        let (cores, queue) = (Cores::default(), Arc::new(ReadyQueue::default()));
        cores.enter("core".into(), Arc::clone(&queue));
        for _ in 0..3 {
            let said = cores.ask(Duration::from_millis(1)).await;
            assert_eq!(said, Some(vec![("core".to_owned(), Said::Silent)]));
        }
        assert_eq!(answer_all(&queue), 1);
        // That answer is an old one: the next question is asked anew.
        let asked = cores.ask(Duration::from_secs(10));
        let mut asked = std::pin::pin!(asked);
        let early = tokio::time::timeout(Duration::from_millis(1), &mut asked).await;
        assert!(early.is_err());
        assert_eq!(answer_all(&queue), 1);
        let said = asked.await.expect("nobody else asks");
        assert!(matches!(said[..], [(_, Said::Report(Report::Newcomer { .. }))]), "{said:?}");
        cores.clear();
        assert_eq!(cores.ask(Duration::ZERO).await, Some(Vec::new()));
    }
}
