# A busy guest on 1 vCPU goes on after each of 20 captures and restores.
at_most_twice vmm_round_trip 1 20
