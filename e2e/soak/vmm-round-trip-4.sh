# limit: 3000
# A busy guest on 4 vCPUs goes on after each of 100 captures and restores.
vmm_round_trip 4 100
