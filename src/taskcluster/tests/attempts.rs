//! The number, duration and logging of attempts: scripted attempts under paused time.

use std::cell::{Cell, RefCell};
use std::future::ready;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::log;
use crate::clock::Clock;
use crate::taskcluster::attempts::{End, Failure, Next, Terms, keep_trying};
use crate::taskcluster::error::{Target, Why};
use crate::taskcluster::{CallError, Effort};
use crate::telemetry::current_retry::CurrentRetry;

const ATTEMPT: Duration = Duration::from_secs(30);

/// A clock that follows tokio's time, and jumps ahead of it once.
struct Wall {
    began: Instant,
    jump_after: Duration,
    jump: Duration,
}

impl Wall {
    fn steady() -> Self {
        Self { began: Instant::now(), jump_after: Duration::MAX, jump: Duration::ZERO }
    }
}

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        let gone = self.began.elapsed();
        let jump = if gone >= self.jump_after { self.jump } else { Duration::ZERO };
        START.parse::<Timestamp>().unwrap() + gone + jump
    }
}

const START: &str = "2026-11-23T16:00:00Z";

fn target() -> Target {
    Target { name: "someCall", method: "GET", url: "https://tc.example.com/api/x".to_owned() }
}

fn failure(next: Next) -> Failure {
    Failure {
        why: Why::Transport("cannot connect: Connection refused".to_owned()),
        next,
        may_have_been_done: false,
    }
}

/// A scripted failure, for tests in other modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fails {
    /// Taskcluster refuses the call.
    Refused,
    /// No server answers.
    Unreachable,
}

/// Makes scripted attempts with the same retries as real calls, for tests of their callers.
pub(crate) async fn scripted<T>(
    effort: Effort,
    clock: &dyn Clock,
    mut attempt: impl FnMut() -> Result<T, Fails>,
) -> Result<T, CallError> {
    let terms = Terms {
        end: End::from(effort),
        attempt: ATTEMPT,
        clock,
        trouble: &CurrentRetry::default(),
        pace: None,
    };
    keep_trying(&target(), terms, || {
        ready(attempt().map_err(|fails| match fails {
            Fails::Refused => failure(Next::Nothing),
            Fails::Unreachable => failure(Next::Later),
        }))
    })
    .await
}

/// Each attempt, counted from 0, fails as `next` says; `None` means success. Also returns the times of the attempts.
async fn run(
    effort: Effort,
    clock: &dyn Clock,
    next: impl Fn(usize) -> Option<Next>,
) -> (Result<(), CallError>, Vec<Duration>) {
    let (began, made) = (Instant::now(), RefCell::new(Vec::new()));
    let terms = Terms {
        end: End::from(effort),
        attempt: ATTEMPT,
        clock,
        trouble: &CurrentRetry::default(),
        pace: None,
    };
    let result = keep_trying(&target(), terms, || {
        let at = made.borrow().len();
        made.borrow_mut().push(began.elapsed());
        ready(next(at).map_or(Ok(()), |next| Err(failure(next))))
    })
    .await;
    (result, made.into_inner())
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_final() {
    let (result, made) = run(Effort::Forever, &Wall::steady(), |_| Some(Next::Nothing)).await;
    let error = result.unwrap_err();
    assert!(error.refused());
    assert_eq!(made.len(), 1);
    assert_eq!(
        error.to_string(),
        "someCall failed: GET https://tc.example.com/api/x: cannot connect: Connection refused"
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_put_right_is_tried_again_at_once_but_only_once() {
    let began = Instant::now();
    let (result, made) = run(Effort::Once, &Wall::steady(), |_| Some(Next::AtOnce)).await;
    assert!(result.unwrap_err().refused());
    assert_eq!(made.len(), 2);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn once_is_once() {
    let (result, made) = run(Effort::Once, &Wall::steady(), |_| Some(Next::Later)).await;
    assert!(!result.unwrap_err().refused());
    assert_eq!(made.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_effort_ends_with_an_attempt_just_before_its_end() {
    for _ in 0..100 {
        let minute = Duration::from_secs(60);
        let began = Instant::now();
        let (result, made) = run(Effort::For(minute), &Wall::steady(), |_| Some(Next::Later)).await;
        let text = result.unwrap_err().to_string();
        assert_eq!(made.last(), Some(&Duration::from_secs(59)));
        assert!(text.ends_with(&format!("(attempt {}, after 59s)", made.len())), "{text}");
        assert!(began.elapsed() <= minute);
    }
}

#[tokio::test(start_paused = true)]
async fn waits_grow_to_half_a_minute_and_to_five_minutes_where_there_is_no_end() {
    let longest = async |effort: Effort, attempts: usize| {
        let (result, made) = run(effort, &Wall::steady(), |at| (at < attempts).then_some(Next::Later)).await;
        result.unwrap();
        let waits: Vec<Duration> = made.windows(2).map(|two| two[1].saturating_sub(two[0])).collect();
        assert!(waits[0] <= Duration::from_millis(500) && waits[1] <= Duration::from_secs(1), "{waits:?}");
        waits.into_iter().max().unwrap()
    };
    let bounded = longest(Effort::For(Duration::from_secs(1_000_000)), 300).await;
    assert!((Duration::from_secs(20)..Duration::from_secs(30)).contains(&bounded), "{bounded:?}");
    let endless = longest(Effort::Forever, 300).await;
    assert!((Duration::from_secs(200)..Duration::from_secs(300)).contains(&endless), "{endless:?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_answer_asks_for_is_waited_but_not_beyond_the_end() {
    let asked = Duration::from_secs(120);
    let (result, made) =
        run(Effort::Forever, &Wall::steady(), |at| (at == 0).then_some(Next::After(asked))).await;
    result.unwrap();
    assert!(made[1] >= asked && made[1] < asked + Duration::from_secs(1), "{made:?}");

    let minute = Duration::from_secs(60);
    let (result, made) = run(Effort::For(minute), &Wall::steady(), |_| Some(Next::After(asked))).await;
    result.unwrap_err();
    assert_eq!(made, [Duration::ZERO, Duration::from_secs(59)]);
}

#[tokio::test(start_paused = true)]
async fn an_end_by_the_wall_clock_is_seen_when_the_clock_jumps() {
    let end: Timestamp = "2026-11-23T18:00:00Z".parse().unwrap();
    let steady = Wall::steady();
    let (_, made) = run(Effort::Until(end), &steady, |_| Some(Next::After(Duration::from_secs(600)))).await;
    assert_eq!(made.last(), Some(&Duration::from_secs(7199)));

    let clock =
        Wall { jump_after: Duration::from_secs(10), jump: Duration::from_secs(86_400), ..Wall::steady() };
    let began = Instant::now();
    let (result, made) =
        run(Effort::Until(end), &clock, |_| Some(Next::After(Duration::from_secs(600)))).await;
    assert!(result.is_err());
    assert_eq!(made.len(), 1);
    assert_eq!(began.elapsed(), Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn an_end_that_has_passed_leaves_one_attempt() {
    let past: Timestamp = "2020-01-01T00:00:00Z".parse().unwrap();
    let (result, made) = run(Effort::Until(past), &Wall::steady(), |_| Some(Next::Later)).await;
    assert!(result.is_err());
    assert_eq!(made.len(), 1);
    let (result, made) = run(Effort::Until(past), &Wall::steady(), |_| None).await;
    assert!(result.is_ok());
    assert_eq!(made.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_time_that_no_clock_can_tell_is_for_ever() {
    let (result, _) =
        run(Effort::For(Duration::MAX), &Wall::steady(), |at| (at < 3).then_some(Next::Later)).await;
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_is_given_up_and_may_have_been_done() {
    let (clock, made) = (Wall::steady(), Cell::new(0));
    let hang = async |effort: Effort| {
        let terms = Terms {
            end: End::from(effort),
            attempt: ATTEMPT,
            clock: &clock,
            trouble: &CurrentRetry::default(),
            pace: None,
        };
        let target = target();
        let result = keep_trying(&target, terms, || {
            made.set(made.get() + 1);
            std::future::pending::<Result<(), Failure>>()
        });
        result.await.unwrap_err()
    };
    let error = hang(Effort::Once).await;
    assert!(error.to_string().ends_with(": timed out after 30s"), "{error}");
    assert!(error.may_have_been_done() && !error.refused());

    made.set(0);
    let began = Instant::now();
    // 30 s, less than 0.5 s of back-off, and the remaining time.
    hang(Effort::For(Duration::from_secs(40))).await;
    assert_eq!(made.get(), 2);
    assert_eq!(began.elapsed(), Duration::from_secs(40));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_remembered_when_a_later_attempt_is_refused() {
    let clock = Wall::steady();
    for lost in [true, false] {
        let made = Cell::new(0);
        let terms = Terms {
            end: End::Never,
            attempt: ATTEMPT,
            clock: &clock,
            trouble: &CurrentRetry::default(),
            pace: None,
        };
        let result: Result<(), _> = keep_trying(&target(), terms, || {
            made.set(made.get() + 1);
            let next = if made.get() == 1 { Next::Later } else { Next::Nothing };
            ready(Err(Failure { may_have_been_done: lost && made.get() == 1, ..failure(next) }))
        })
        .await;
        let error = result.unwrap_err();
        assert!(error.refused());
        assert_eq!(error.may_have_been_done(), lost);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_keeps_failing_is_told_once_a_minute_and_so_is_its_recovery() {
    log::record();
    let minutes = Duration::from_secs(200);
    let wall = Wall::steady();
    let began = Instant::now();
    let (result, _) = run(Effort::Forever, &wall, |_| {
        (began.elapsed() < minutes).then_some(Next::After(Duration::from_secs(20)))
    })
    .await;
    result.unwrap();
    let lines: Vec<String> = log::lines();
    assert!((4..=5).contains(&lines.len()), "{lines:#?}");
    let first = lines[0].split(" next_in=").next().unwrap();
    insta::assert_snapshot!(first, @"WARN a call to Taskcluster fails: trying again call=someCall error=someCall failed: GET https://tc.example.com/api/x: cannot connect: Connection refused");
    assert!(
        lines[1].starts_with("WARN a call to Taskcluster still fails: trying again call=someCall"),
        "{}",
        lines[1]
    );
    let last = lines.last().unwrap();
    assert!(last.starts_with("INFO a call to Taskcluster works again call=someCall attempts="), "{last}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_works_or_is_refused_at_once_is_not_told_here() {
    log::record();
    run(Effort::Forever, &Wall::steady(), |_| None).await.0.unwrap();
    run(Effort::Forever, &Wall::steady(), |_| Some(Next::Nothing)).await.0.unwrap_err();
    run(Effort::Once, &Wall::steady(), |_| Some(Next::Later)).await.0.unwrap_err();
    assert_eq!(log::lines(), Vec::<String>::new());
}
