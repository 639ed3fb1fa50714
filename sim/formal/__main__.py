# SPDX-License-Identifier: Apache-2.0
"""``python -m sievit.sim.formal [name ...]``: carry out the proofs so named, or all."""

import sys

from sievit.quant.errors import SievitError
from sievit.sim.formal import proofs, prove


def main(prefixes: list[str]) -> int:
    chosen = [n for n in proofs() if not prefixes or n.startswith(tuple(prefixes))]
    if not chosen:
        print(f"no proof begins with {' or '.join(prefixes)}; there are:", *proofs(), sep="\n  ")
        return 2
    width = max(len(n) for n in chosen)
    failed, seconds = 0, 0.0
    print(
        f"{'proof':{width}}  {'kind':9}  {'k':>2}  {'asserts':>7}  {'covers':>6}  {'s':>6}  result"
    )
    for name in chosen:
        r = prove(name)
        reached = sum(v is not None for v in r.covers.values())
        print(
            f"{name:{width}}  {r.kind:9}  {r.k:2}  {r.asserts:7}  "
            f"{reached:3}/{len(r.covers)}  {r.seconds:6.2f}  {'proved' if r.proved else 'FAILED'}",
            flush=True,
        )
        seconds += r.seconds
        failed += not r.proved
        if r.trace:
            print(r.trace, f"failing: {', '.join(r.failing)}", sep="\n")
        for cover, steps in r.covers.items():
            if steps is None:
                print(f"  not reached: {cover}")
    print(f"{len(chosen) - failed} of {len(chosen)} proved in {seconds:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SievitError as e:
        sys.exit(f"error: {e}")
