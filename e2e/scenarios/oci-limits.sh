# What a spec limits by cgroups, and what takes the capability to lift limits, is the
# same as under crun and runc.
# limit: 600
container_tests corpus/cgroup
container_tests 'higher rlimits'
container_tests 'the lowest OOM score'
