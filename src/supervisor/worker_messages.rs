//! Handles the worker's messages from the output thread.

use tracing::info;

use super::Supervisor;
use super::reports::masked;
use crate::event::Event;
use crate::output::WorkerEvent;
use crate::protocol::capabilities::Capability;
use crate::protocol::message::{FromWorker, LONGEST_REASON};

impl Supervisor<'_> {
    /// Handles an event from the output thread.
    pub(super) fn heard(&mut self, said: Option<WorkerEvent>) -> Option<Event> {
        match said {
            Some(WorkerEvent::Message(message)) => self.heard_message(message),
            Some(WorkerEvent::ReportsDropped { count }) => {
                self.reports.dropped(count);
                None
            }
            Some(WorkerEvent::TaskStarted) => {
                self.job.publisher.publish_task_start();
                Some(Event::TaskStarted)
            }
            Some(WorkerEvent::TaskFinished) => {
                self.job.publisher.publish_task_finish();
                Some(Event::TaskFinished)
            }
            Some(WorkerEvent::End { last_lines }) => {
                self.last_lines = last_lines;
                self.worker_events = None;
                self.advance_clearing()
            }
            None => {
                self.worker_events = None;
                self.advance_clearing()
            }
        }
    }

    fn heard_message(&mut self, message: FromWorker) -> Option<Event> {
        match message {
            FromWorker::Hello { capabilities } => {
                info!(name: "worker-hello", %capabilities, "worker says hello");
                let graceful_termination = capabilities.has(Capability::GracefulTermination);
                let new_credentials = capabilities.has(Capability::NewCredentials);
                Some(Event::Hello { graceful_termination, new_credentials })
            }
            FromWorker::Autologin(request) => {
                if let Some(child) = &self.child {
                    self.logins.heard(request, &child.inbox());
                }
                None
            }
            FromWorker::ErrorReport(report) => {
                self.reports.forward(report);
                None
            }
            FromWorker::Reboot { reason } => {
                let reason = masked(reason.unwrap_or_default(), LONGEST_REASON, &self.job.secrets);
                info!(name: "reboot-requested", reason, "worker asks for a reboot of its host after its exit");
                Some(Event::RebootAsked)
            }
            FromWorker::Shutdown => Some(Event::ShutdownAsked),
        }
    }
}
