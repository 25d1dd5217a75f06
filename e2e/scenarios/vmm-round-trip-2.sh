# A busy guest on 2 vCPUs goes on after each of 20 captures and restores.
at_most_twice vmm_round_trip 2 20
