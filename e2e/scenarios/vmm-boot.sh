# A kernel boots, and the ways in which a guest can end are told apart.
vmm_tests boot::
