#!/usr/bin/env bash
# The built `dlog`, used as a user would: lines in, the same lines out, processes killed in between.
# usage: tests/acceptance.sh PATH/TO/dlog [LINES]     PORT=20000 and the 40 ports after it must be free
set -u
dlog=$(readlink -f "${1:?usage: tests/acceptance.sh PATH/TO/dlog [LINES]}")
lines=${2:-100000}
port=${PORT:-$((20000 + $$ % 200 * 50))}
work=$(mktemp -d)
in=$work/in
for name in "${!DLOG_@}"; do unset "$name"; done

declare -A pid=()
finish() {
  exec 2>/dev/null
  [ ${#pid[@]} -gt 0 ] && kill -9 "${pid[@]}"
  kill $(jobs -p)
  wait
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

fail() {
  printf 'FAILED: %s\n' "$*" >&2
  for log in "$work"/*.log; do
    [ -s "$log" ] && { printf -- '--- the end of %s\n' "${log##*/}"; tail -n 20 "$log"; } >&2
  done
  exit 1
}
ok() { printf 'ok: %s\n' "$*"; }

# until SECONDS COMMAND...: until the command succeeds.
until_ok() {
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.05
  done
}
has_lines() { [ -e "$1" ] && [ "$(wc -l <"$1")" -ge "$2" ]; }
gone() { ! kill -0 "$1" 2>/dev/null; }

# start NAME FLAGS...: a node, with its log in NAME.log.
start() {
  local name=$1
  shift
  "$dlog" "$@" >>"$work/$name.log" 2>&1 </dev/null &
  pid[$name]=$!
}
kill9() { kill -9 "${pid[$1]}"; wait "${pid[$1]}" 2>/dev/null; unset "pid[$1]"; }
up() { until_ok 15 "$dlog" cluster status --server "$1" || fail "$2 did not come up in 15 s"; }

# Fails with a message unless `dlog ARGS` ends with an error that says PART and is no panic.
refused() {
  local part=$1 message code
  shift
  message=$(timeout 30 "$dlog" "$@" </dev/null 2>&1)
  code=$?
  [ $code -ne 0 ] && [ $code -ne 124 ] || fail "dlog $* was not refused (exit code $code): $message"
  grep -qi panicked <<<"$message" && fail "dlog $* panicked: $message"
  grep -qiF -- "$part" <<<"$message" || fail "dlog $* was refused without a word of '$part': $message"
}

# Fails with a message unless the log has exactly the lines of a file.
holds() {
  "$dlog" read "$1" --from oldest --format raw --server "$3" >"$work/out" || fail "$1 cannot be read"
  cmp -s "$2" "$work/out" || fail "$1 has other lines than were appended ($(wc -l <"$work/out") of $(wc -l <"$2")): $(cmp "$2" "$work/out" 2>&1)"
}
lsns() { grep -cE '^e[0-9]+n[0-9]+$' "$1"; }

# The first half of the input, then the rest when $work/go is there: the end comes after what happens in between.
in_two_parts() {
  head -n $((lines / 2)) "$in"
  until [ -e "$work/go" ] || [ ! -d "$work" ]; do sleep 0.02; done
  tail -n +$((lines / 2 + 1)) "$in"
}

# Numbered lines of 10 to 400 characters, the same each time.
awk -v lines="$lines" 'BEGIN {
  srand(7); for (i = 0; i < 400; i++) text = text sprintf("%c", 33 + int(rand() * 94))
  for (i = 1; i <= lines; i++) printf "%d %s\n", i, substr(text, 1 + i % 97, 4 + int(rand() * rand() * 390))
}' >"$in"
[ "$(wc -l <"$in")" = "$lines" ] || fail 'the input could not be made'

# --- one node
one=127.0.0.1:$port
node_one() { start one --data-dir "$work/one" --listen "$one" --http "127.0.0.1:$((port + 1))" "$@"; }
node_one
up "$one" 'a node'
until_ok 1 grep -q 'dlog append' "$work/one.log" || fail 'there is no banner that says what to type next'

"$dlog" log create demo/lines --partitions 1 --replication 1 --server "$one" >/dev/null || fail 'a log cannot be created'
"$dlog" append demo/lines --server "$one" <"$in" >/dev/null || fail 'append failed'
holds demo/lines "$in" "$one"
ok "one node: $lines lines read as they were appended"

"$dlog" read demo/lines --from newest --follow --count 1 --format raw --server "$one" >"$work/followed" &
follower=$!
until_ok 20 eval 'echo later | "$dlog" append demo/lines --server "$one" && [ -s "$work/followed" ]' || fail 'a follower saw nothing'
wait $follower && [ "$(cat "$work/followed")" = later ] || fail "a follower saw '$(cat "$work/followed")'"
[ "$("$dlog" read demo/lines --from e1n3 --count 1 --format raw --server "$one")" = "$(sed -n 3p "$in")" ] || fail 'reading from an LSN'
[ "$("$dlog" read demo/lines --from 2 --count 1 --format raw --server "$one")" = "$(sed -n 3p "$in")" ] || fail 'reading from an offset'
ok 'one node: followed, read from an LSN and from an offset'

# The node dies with records on their way, and so does the client: what was acknowledged is there, once, in order.
"$dlog" log create demo/crash --partitions 1 --replication 1 --server "$one" >/dev/null || fail 'a second log cannot be created'
rm -f "$work/go"
"$dlog" append demo/crash --print-lsn --server "$one" < <(in_two_parts) >"$work/acked" 2>"$work/append.log" &
client=$!
until_ok 30 has_lines "$work/acked" 1000 || fail 'no LSNs were printed'
kill9 one
kill -9 $client
wait $client 2>/dev/null
touch "$work/go"
acked=$(lsns "$work/acked")
node_one
up "$one" 'the node, after kill -9,'
"$dlog" read demo/crash --from oldest --format raw --server "$one" >"$work/out" || fail 'read after kill -9'
there=$(wc -l <"$work/out")
[ "$there" -ge "$acked" ] || fail "$acked lines were acknowledged, $there are there after kill -9"
head -n "$there" "$in" | cmp -s - "$work/out" || fail 'after kill -9 lines are missing, doubled or out of order'
ok "one node: killed while appending, all $acked acknowledged lines are there"

# The node dies and comes back under a client that goes on.
"$dlog" log create demo/retry --partitions 1 --replication 1 --server "$one" >/dev/null || fail 'a third log cannot be created'
rm -f "$work/go"
"$dlog" append demo/retry --print-lsn --server "$one" < <(in_two_parts) >"$work/acked" 2>"$work/append.log" &
client=$!
until_ok 30 has_lines "$work/acked" 1000 || fail 'no LSNs were printed'
kill9 one
node_one
touch "$work/go"
wait $client || fail "append did not outlive a restart of its node: $(tail -n 2 "$work/append.log")"
[ "$(lsns "$work/acked")" = "$lines" ] || fail 'append ended before every line was acknowledged'
sort -c -V "$work/acked" || fail 'LSNs were not printed in order'
holds demo/retry "$in" "$one"
ok 'one node: restarted under an append, every line is there exactly once'

refused 'no/such' append no/such --server "$one"
created_as() { # log, what is said, servers
  [ "$("$dlog" log create "$1" --server "$3")" = "created $1 with $2" ] || fail "a log that is told nothing about copies does not have $2"
}
created_as demo/plain '1 partition, replication 1, write quorum 1' "$one"
refused 'demo/lines' log create demo/lines --partitions 1 --replication 1 --server "$one"
refused '9' log create demo/many --partitions 1 --replication 9 --server "$one"
refused '--partitions' log create demo/none --partitions 0 --replication 1 --server "$one"
refused 'e9n' read demo/lines --from e9n --server "$one"
refused 'in use' --data-dir "$work/one" --listen "127.0.0.1:$((port + 2))" --http "127.0.0.1:$((port + 3))"
refused 'in use' --data-dir "$work/other" --listen "$one" --http "127.0.0.1:$((port + 3))"
refused 'in use' --data-dir "$work/other" --listen "127.0.0.1:$((port + 2))" --http "127.0.0.1:$((port + 1))"
refused '--node-id' --data-dir "$work/other" --nodeid 1
printf 'nodeid = 1\n' >"$work/bad.toml"
refused "'node_id'" --config "$work/bad.toml"
mkdir "$work/foreign" && touch "$work/foreign/thesis.txt"
refused 'thesis.txt' --data-dir "$work/foreign" --listen "127.0.0.1:$((port + 2))" --http "127.0.0.1:$((port + 3))"
head -c 4000 /dev/urandom >"/dev/udp/127.0.0.1/$port"
"$dlog" cluster status --server "$one" >/dev/null || fail 'junk on its port stopped the node'
ok 'bad input is answered with an error that says what is wrong'

kill "${pid[one]}"
until_ok 5 gone "${pid[one]}" || fail 'SIGTERM did not stop the node in 5 s'
wait "${pid[one]}" || fail "SIGTERM ended the node with exit code $?"
unset 'pid[one]'
refused '--node-id 1' --node-id 2 --data-dir "$work/one" --listen "$one" --http "127.0.0.1:$((port + 1))"
ok 'stopped in order'

# --- three nodes
nodes=1=127.0.0.1:$((port + 10)),2=127.0.0.1:$((port + 11)),3=127.0.0.1:$((port + 12))
all=127.0.0.1:$((port + 10)),127.0.0.1:$((port + 11)),127.0.0.1:$((port + 12))
node() { start "node$1" --node-id "$1" --data-dir "$work/node$1" --cluster-nodes "$nodes" --http "127.0.0.1:$((port + 20 + $1))"; }
for n in 1 2 3; do node $n; done
up "$all" 'a cluster of three'
created_as demo/plain '1 partition, replication 3, write quorum 2' "$all"
"$dlog" log create demo/three --partitions 1 --replication 3 --server "$all" >/dev/null || fail 'a log with three copies cannot be created'

# newest FIELD: of the newest epoch of demo/three/0.
newest() { "$dlog" epoch show demo/three/0 --json --server "$all" | tr -d ' \n' | grep -o "\"$1\":[0-9]*" | tail -n 1 | cut -d : -f 2; }

rm -f "$work/go"
"$dlog" append demo/three --print-lsn --server "$all" < <(in_two_parts) >"$work/acked" 2>"$work/append.log" &
client=$!
until_ok 30 has_lines "$work/acked" 1000 || fail 'no LSNs were printed'
epoch=$(newest epoch)
sequencer=$(newest sequencer)
[ -n "$epoch" ] && [ -n "${pid[node$sequencer]:-}" ] || fail "epoch show names epoch '$epoch' and sequencer '$sequencer'"
kill9 "node$sequencer"
touch "$work/go"
wait $client || fail "append did not outlive its sequencer: $(tail -n 2 "$work/append.log")"
[ "$(lsns "$work/acked")" = "$lines" ] || fail 'append ended before every line was acknowledged'
next=$(newest epoch)
[ "$next" -gt "$epoch" ] || fail "the epoch is still $next"
holds demo/three "$in" "$all"
ok "three nodes: the sequencer killed while appending (epoch $epoch to $next), every line is there exactly once"

node "$sequencer"
copyset=$("$dlog" copyset show demo/three/0 --lsn "$(tail -n 1 "$work/acked")" --json --server "$all" | tr -d ' \n')
grep -q '"copyset":\["n[0-9]*s[0-9]*"' <<<"$copyset" || fail "copyset show says $copyset"
for n in 1 2 3; do kill9 "node$n"; done
for n in 1 2 3; do node $n; done
up "$all" 'the cluster, after kill -9 of all nodes,'
holds demo/three "$in" "$all"
echo last | "$dlog" append demo/three --server "$all" >/dev/null || fail 'append after kill -9 of all nodes'
[ "$("$dlog" read demo/three --from oldest --format raw --server "$all" | tail -n 1)" = last ] || fail 'what was appended last is not there'
ok 'three nodes: all killed, all lines are there, and more can be appended'
