# Sourced by every finding with the packages it needs: makes a temporary folder and an environment in it, and goes there.
# FINDINGS_ENVIRONMENT=DIR keeps the environment in DIR, for the next finding to add its packages to (all pins agree).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
environment=${FINDINGS_ENVIRONMENT:-$work/environment}
[ -x "$environment/bin/python" ] || python3 -m venv "$environment"
"$environment/bin/pip" install --quiet --quiet "$@"
PATH="$environment/bin:$PATH"
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 OMP_NUM_THREADS=1
