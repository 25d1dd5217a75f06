# A busy guest on 4 vCPUs goes on after each of 20 captures and restores.
at_most_twice vmm_round_trip 4 20
