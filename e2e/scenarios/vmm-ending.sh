# A VMM ends at once when it is told to, signalled or left alone; a guest that ends is not captured.
vmm_tests ending::
