# Where the library is, and which configuration is taken where none is given.
import sys
from pathlib import Path

# The library beside this workflow; where the workflow is a module from a repository, the one that is installed.
ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent.parent
BESIDE = [str(ROOT)] if (ROOT / "kdmvs").is_dir() else []
sys.path[:0] = BESIDE

try:
    import kdmvs.config
except ModuleNotFoundError as error:
    print(
        f"kdmvs: expected the library beside the workflow or installed, found no module {error.name}; "
        "`pip install` the version of kdmvs that the workflow comes from",
        file=sys.stderr,
    )
    sys.exit(2)
from kdmvs.tables import default_configuration
