#!/bin/bash
# Usage: suite.sh runc|ours RUNTIME SNAPSHOTTER RESULTS [TEST...]
#
# Runs containerd's own client suite, or the named tests of it, in the emulated host, with
# a time limit for each, and fails unless every test ends as that column of the table
# beside this says. RESULTS is the folder for what it printed and how each test ended.
set -euo pipefail

column=$1 runtime=$2 snapshotter=$3 results=$4
shift 4
chosen=("$@")
here=$(cd "$(dirname "$0")" && pwd)
suite=/job/conformance/client.test
world=/var/tmp/client-suite-$column
# Seconds; an emulated processor takes ten times what a real one does.
limit=180

# Usage: table COLUMN; prints "TEST OUTCOME" for each test that is asked for.
table() {
    awk -v field=$([ "$1" = runc ] && echo 2 || echo 3) -v chosen=" ${chosen[*]} " \
        '!/^(#|$)/ && (chosen == "  " || index(chosen, " " $1 " ")) { print $1, $field }' "$here/client-suite.txt"
}

fail() {
    echo "FAILED: $*"
    exit 1
}

# What runc can do, we can, or the table says why not.
check_table() {
    local unexplained
    unexplained=$(awk '!/^(#|$)/ && $2 == "pass" && $3 != "pass" && $4 !~ /^theirs:$/' "$here/client-suite.txt")
    [ -z "$unexplained" ] || fail "what runc passes and we don't needs a reason: $unexplained"
    [ ${#chosen[@]} = 0 ] || return 0
    diff <(table runc | cut -d' ' -f1 | sort) <("$suite" -test.short -test.list . 2>/dev/null | grep ^Test | sort) ||
        fail "the table (<) and the suite (>) have different tests"
}

# Usage: note TEST OUTCOME
note() {
    echo "$1 $2" >>"$results/outcomes"
    echo "$1: $2 after $((SECONDS - since)) s"
}

# Usage: watch PID; reads what the suite prints, until it ends or a test takes too long.
watch() {
    local line outcome read_status test=''
    since=$SECONDS
    while true; do
        read_status=0
        IFS= read -r -t 1 line || read_status=$?
        if [ $read_status = 0 ]; then
            echo "$line" >>"$results/printed"
            case $line in
            '=== RUN   '* | '=== CONT  '*)
                line=${line:10}
                [ "${line%%/*}" = "$test" ] || since=$SECONDS
                test=${line%%/*}
                ;;
            '--- '*': Test'*)
                outcome=${line:4:4}
                line=${line#*: }
                note "${line%% *}" "${outcome,,}"
                test=''
                ;;
            esac
        elif [ $read_status -le 128 ]; then
            [ -z "$test" ] || note "$test" crash
            return
        fi
        if [ -n "$test" ] && [ $((SECONDS - since)) -ge $limit ]; then
            note "$test" hang
            kill -KILL "$1"
            # What it would have printed at its end.
            cat "$world"/tmp/[0-9]* >>"$results/printed"
            return
        fi
    done
}

# Usage: run TEST...: from the first on, as far as it gets.
run() {
    local pattern printed pid
    pattern="^($(IFS='|' && echo "$*"))\$"
    exec {printed}< <(
        export PATH=$here/bin:$PATH TEST_RUNTIME=$runtime TEST_SNAPSHOTTER=$snapshotter
        exec "$here/world.sh" "$world" "$suite" -test.root -test.v -test.parallel 1 -test.run "$pattern" 2>&1
    )
    pid=$!
    watch "$pid" <&"$printed"
    exec {printed}<&-
    wait "$pid" || true
}

# Usage: remaining; prints the tests that are to be run and have not ended yet.
remaining() {
    comm -23 <(table "$column" | awk '$2 != "-" { print $1 }' | sort) <(cut -d' ' -f1 "$results/outcomes" | sort)
}

# Usage: run_all; runs what remains, again and again where a test ended the suite. The suite
# gives containerd a few seconds to answer, which a busy emulated processor can miss.
run_all() {
    local tests fruitless=0
    while mapfile -t tests < <(remaining) && [ ${#tests[@]} -gt 0 ]; do
        run "${tests[@]}"
        if [ "$(remaining | wc -l)" -lt ${#tests[@]} ]; then
            fruitless=0
        elif [ $((fruitless += 1)) = 3 ]; then
            fail "the suite does not start: $(tail -n 20 "$results/printed")"
        fi
    done
}

# Usage: unexpected; prints "TEST OUTCOME" for each test that ended otherwise than the table says.
unexpected() {
    comm -13 <(table "$column" | awk '$2 != "-"' | sort) <(sort "$results/outcomes")
}

check_table
mkdir -p "$results"
: >"$results/outcomes"
run_all
# Some tests have time limits of their own, which an emulated processor can miss.
mapfile -t again < <(unexpected | cut -d' ' -f1)
if [ ${#again[@]} -gt 0 ]; then
    echo "once more: ${again[*]}"
    sed -i -E "/^($(IFS='|' && echo "${again[*]}")) /d" "$results/outcomes"
    run_all
fi
rm -rf "$world" /var/lib/containerd-test
[ -z "$(unexpected)" ] || fail "other than the table says: $(unexpected | paste -sd,); see $results/printed"
