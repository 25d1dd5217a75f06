# limit: 3000
# A busy guest on 1 vCPU goes on after each of 100 captures and restores.
vmm_round_trip 1 100
