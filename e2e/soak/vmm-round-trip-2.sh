# limit: 3000
# A busy guest on 2 vCPUs goes on after each of 100 captures and restores.
vmm_round_trip 2 100
