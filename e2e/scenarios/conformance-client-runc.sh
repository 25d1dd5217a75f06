# containerd's own client suite with runc: what ours is measured by.
# flavour: containerd-2
# part: conformance
# limit: 1800
/job/host/conformance/suite.sh runc io.containerd.runc.v2 overlayfs "/host/$NAME"
