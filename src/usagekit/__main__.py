"""`python -m usagekit`: the command line, where the `usagekit` script is not on the path."""

from usagekit.cli import main

raise SystemExit(main())
