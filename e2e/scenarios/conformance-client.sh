# containerd's own client suite, with our runtime and snapshotter: each test ends as
# the table in e2e/host/conformance says, where what runc passes and we don't has a reason.
# flavour: containerd-2
# part: conformance
# limit: 1800
require_bake
/job/host/conformance/suite.sh ours $runtime $snapshotter "/host/$NAME"
