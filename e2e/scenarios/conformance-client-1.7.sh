# A dozen tests of containerd's own client suite with Debian's containerd 1.7, with runc and
# with ours: a task's life, its streams, and what survives a restart of containerd.
# flavour: containerd-1.7
# part: conformance
# limit: 900
require_bake
dozen=(
    TestContainerStart TestContainerOutput TestContainerExec TestContainerPTY TestContainerAttach
    TestContainerCloseIO TestContainerKillAll TestContainerPids TestContainerHook TestContainerUser
    TestContainerNoBinaryExists TestDaemonRestartWithRunningShim
)
/job/host/conformance/suite.sh runc io.containerd.runc.v2 overlayfs "/host/$NAME/runc" "${dozen[@]}"
/job/host/conformance/suite.sh ours $runtime $snapshotter "/host/$NAME/ours" "${dozen[@]}"
