//! Tests of the thread with pipes whose ends the test holds.

use std::fs::File;
use std::io::Write;

use super::*;

fn attach(output: &Output) -> (Attachment, [File; 2], mpsc::Receiver<WorkerEvent>) {
    let (stdout, stdout_writer) = nix::unistd::pipe().unwrap();
    let (stderr, stderr_writer) = nix::unistd::pipe().unwrap();
    let (events, received) = mpsc::channel(8);
    let offered = Capabilities::NONE;
    let pipes = WorkerPipes { stdout, stderr, offered, counts_tasks: false, keep_last: 1 };
    let attachment = output.attach(pipes, events).unwrap();
    (attachment, [stdout_writer.into(), stderr_writer.into()], received)
}

#[test]
fn what_a_worker_wrote_is_read_also_while_its_other_pipe_keeps_the_sink() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let output = Output::start(log.reopen().unwrap().into(), Format::Text).unwrap();
    let (attachment, [mut stdout, mut stderr], mut events) = attach(&output);
    // Once this write returns, more than a piece has been read, because the rest does not fit into the pipe.
    stderr.write_all(&vec![b'x'; 2 * 1024 * 1024]).unwrap();
    stdout.write_all(b"the last words\n").unwrap();
    // The writers stay open, as in a process that outlives the worker.
    attachment.catch_up();
    attachment.finish();
    let Some(WorkerEvent::End { .. }) = events.blocking_recv() else { unreachable!("no other event") };
    assert!(output.close(Duration::from_secs(60)));
    let text = std::fs::read_to_string(log.path()).unwrap();
    assert!(text.contains("[worker] the last words\n"));
    assert_eq!(text.matches('x').count(), 2 * 1024 * 1024);
}

#[test]
fn lines_that_wait_for_a_stalled_log_are_bounded_in_bytes() {
    let (log, sink) = nix::unistd::pipe().unwrap();
    let output = Output::start(sink, Format::Text).unwrap();
    let lines = output.log_sink();
    // The first lines fill the pipe and then the queue; the rest finds no room.
    for _ in 0..100 {
        lines.line(vec![b'x'; 512 * 1024]);
    }
    let waiting = lines.0.shared.waiting_bytes.load(Ordering::Relaxed);
    assert!(waiting <= 2 * WAITING_BYTES, "{waiting}");
    assert!(lines.0.shared.dropped_lines.load(Ordering::Relaxed) >= 90);
    drop(log);
    assert!(output.close(Duration::from_secs(60)));
}
