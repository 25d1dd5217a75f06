# limit: 300
# Whatever a bake's files hold, the VMM refuses it or runs a guest; it never panics or hangs.
vmm_tests damage::
