#!/bin/sh
# A small worker for demo.yml. It speaks start-worker's protocol and needs only a POSIX shell.
#
# It pretends to run tasks, each of which takes SECONDS_PER_TASK (its first argument, default 1). The duties of a worker:
#   * It reads messages on stdin, one `~` and one JSON object per line, and answers `welcome` with `hello`.
#   * On graceful-termination it exits: at once, or (finish-tasks true) after the current task.
#   * Everything else that it prints is its output and goes to the log.
# docs/protocol.md describes the protocol. A real worker parses the JSON; for a demo, patterns are enough.

seconds=${1:-1}
done_count=0
sleeper=               # the process that pretends to be the task
state=running          # running, draining, stopping; each one overrides the one before
trap 'if [ "$state" = running ]; then state=draining; fi' USR1
trap 'state=stopping; kill "$sleeper" 2>/dev/null' TERM INT

say() { printf '%s\n' "$*"; }
send() { printf '~%s\n' "$1"; }

# Answers the runner. `read` blocks, so this runs in parallel with the tasks and signals the main shell.
listen() {
    trap - USR1 TERM INT
    while IFS= read -r line; do
        case $line in
            '~{'*'"type":"welcome"'*)
                send '{"type":"hello","capabilities":["graceful-termination","log"]}' ;;
            '~{'*'"type":"graceful-termination"'*'"finish-tasks":true'* | \
            '~{'*'"finish-tasks":true'*'"type":"graceful-termination"'*)
                kill -USR1 $$ ;;
            '~{'*'"type":"graceful-termination"'*)
                kill -TERM $$ ;;
        esac
    done
    # End of stdin: the runner has ended.
    kill -TERM $$
}

# The shell gives background jobs an empty stdin, so pass it on explicitly.
exec 3<&0
listen <&3 &
listener=$!
exec 3<&-

say "demo worker is up: tasks take $seconds s each"
while [ "$state" = running ]; do
    task=$((done_count + 1))
    say "task $task: working"
    sleep "$seconds" &
    sleeper=$!
    # A signal interrupts `wait`, but not the task: a draining worker continues to wait.
    while [ "$state" != stopping ] && kill -0 "$sleeper" 2>/dev/null; do wait "$sleeper" 2>/dev/null; done
    if [ "$state" = stopping ]; then
        # Not SIGTERM, because a shell that has forked but not yet executed `sleep` would ignore it.
        kill -KILL "$sleeper" 2>/dev/null
        wait "$sleeper" 2>/dev/null
        say "task $task: given up, it would be resolved as worker-shutdown"
        break
    fi
    done_count=$task
    send "{\"type\":\"log\",\"body\":{\"textPayload\":\"task finished\",\"task\":$task,\"seconds\":$seconds}}"
done

say "asked to stop ($state): cleaning up"
# Wait for its end: on a busy machine the runner would still find it, and report a leftover process.
kill -KILL "$listener" 2>/dev/null
wait "$listener" 2>/dev/null
say "demo worker ends after $done_count tasks"
exit 0
