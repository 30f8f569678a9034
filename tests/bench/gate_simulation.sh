#!/usr/bin/env bash
# How often the gate passes what fell by the margin, and fails what did not: simulated releases of known fall, over true falls,
# discordances, numbers of pairs, unscored shares, designs and numbers of datasets. Prints each cell's rates beside theory,
# and fails where a rate is above its level by more than 0.0025 and three Monte-Carlo standard errors.
#
#     tests/bench/gate_simulation.sh [RELEASES a cell, default 10000]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
EMT_SIMULATIONS="${1:-10000}" cargo test --release --locked --test it -- \
    --ignored --nocapture --exact gate_simulation::the_gate_is_wrong_no_more_often_than_its_level_anywhere
