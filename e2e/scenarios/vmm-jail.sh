# A running VMM sees nothing of its host and has no privileges.
vmm_tests jail::
