#!/bin/sh
# A small worker for demo.yml: it speaks the protocol of start-worker and needs nothing but a POSIX shell.
#
# It pretends to run tasks, SECONDS_PER_TASK (its first argument, default 1) each. What a worker owes its runner:
#   * it reads messages on stdin, one JSON object behind a `~` a line, and answers `welcome` with `hello`;
#   * on graceful-termination it ends: at once, or (finish-tasks true) after the task that it is busy with;
#   * everything else that it prints is its output and goes to the log.
# docs/protocol.md has the rest. A real worker parses the JSON; for a demonstration, patterns do.

seconds=${1:-1}
done_count=0
sleeper=               # the process that pretends to be the task
state=running          # running, draining, stopping: each is stronger than the one before
trap 'if [ "$state" = running ]; then state=draining; fi' USR1
trap 'state=stopping; kill "$sleeper" 2>/dev/null' TERM INT

say() { printf '%s\n' "$*"; }
send() { printf '~%s\n' "$1"; }

# Answers the runner. `read` blocks, so this runs beside the tasks and tells them by a signal what the runner wants.
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
    # The end of stdin: the runner is gone.
    kill -TERM $$
}

# The shell gives what runs in the background an empty stdin, unless it is told otherwise.
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
    # A signal interrupts `wait`, not the task: a worker that drains goes on waiting.
    while [ "$state" != stopping ] && kill -0 "$sleeper" 2>/dev/null; do wait "$sleeper" 2>/dev/null; done
    if [ "$state" = stopping ]; then
        # Not SIGTERM: a shell that has forked and not yet executed `sleep` would swallow that.
        kill -KILL "$sleeper" 2>/dev/null
        wait "$sleeper" 2>/dev/null
        say "task $task: given up, it would be resolved as worker-shutdown"
        break
    fi
    done_count=$task
    send "{\"type\":\"log\",\"body\":{\"textPayload\":\"task finished\",\"task\":$task,\"seconds\":$seconds}}"
done

say "asked to stop ($state): cleaning up"
kill -KILL "$listener" 2>/dev/null
say "demo worker ends after $done_count tasks"
exit 0
