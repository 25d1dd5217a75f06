# limit: 9000
# Nothing is left of 1,000 execs in one container.
repeat_execs 1000
