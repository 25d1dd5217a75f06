# limit: 900
# Nothing is left of 20 containers.
repeat_starts 20
