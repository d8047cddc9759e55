"""`python -m luban` is `luban`."""

from luban.cli import main

raise SystemExit(main())
