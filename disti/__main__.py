"`python -m disti` is the command `disti`."

import sys

from disti.run import main

sys.exit(main())
