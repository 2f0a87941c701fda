"`python -m disti` is the command `disti`."

import sys

from disti.stage import main

sys.exit(main())
