# limit: 900
# Nothing is left of 100 execs in one container.
repeat_execs 100
