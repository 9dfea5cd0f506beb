from llm_bridge import *
from theory import *

__version__: str
