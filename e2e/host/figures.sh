# Sourced by benchmarks: times, medians, and what is to be reached.

# Usage: timed COMMAND...; prints the microseconds that it took, or fails as it does.
timed() {
    local start=$EPOCHREALTIME end
    "$@" || return
    end=$EPOCHREALTIME
    echo $((${end/./} - ${start/./}))
}

# Usage: median FILE; of microseconds, in milliseconds.
median() { sort -n "$1" | awk '{ value[NR] = $1 } END { printf "%.1f", value[int((NR + 1) / 2)] / 1000 }'; }
ratio() { awk "BEGIN { printf \"%.2f\", $1 / $2 }"; }
difference() { awk "BEGIN { printf \"%.1f\", $1 - $2 }"; }
at_most() { awk "BEGIN { exit !($1 <= $2) }"; }

# Usage: heading WHAT RUNS, then row TITLE RUNC OURS RATIO
heading() {
    printf '\n%s; medians of %s\n' "$1" "$2"
    row '' runc ours 'to runc'
}
row() { printf '%-44s %10s %10s %8s\n' "$@"; }
# Usage: line TITLE FIGURES SUFFIX: and sets `runc`, `ours` (ms) and `to_runc`.
line() {
    runc=$(median "$2-runc$3") ours=$(median "$2-ours$3")
    to_runc=$(ratio "$ours" "$runc")
    row "$1" "$runc" "$ours" "$to_runc"
}

missed=0
# Usage: target WHAT VALUE LIMIT; sets `missed` when it is.
target() {
    if at_most "$2" "$3"; then echo "met: $1 is $2, at most $3"; else echo "MISSED: $1 is $2, at most $3" && missed=1; fi
}
