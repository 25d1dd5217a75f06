# A busy guest on 4 vCPUs goes on after each of 20 captures and restores.
vmm_round_trip 4 20
