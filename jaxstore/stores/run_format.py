"""What is written into a store to make a run or a storage of it: names, and the version.

Owned here: what the wing that writes and the wing that loads have to agree on.
"""

from __future__ import annotations

FORMAT_VERSION = 2  # 1 had no checksums and no checkpoints
MANIFEST = "jaxstore"  # attribute of the root
ITERATION = "iteration"  # of each group: the step at which each draw was taken
