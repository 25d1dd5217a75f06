# limit: 9000
# Nothing is left of 200 containers.
repeat_starts 200
