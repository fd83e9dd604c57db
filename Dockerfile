# Built in two stages, so that pip and its caches stay behind. The classic builder can build it.
FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# one file or several, with blanks between: requirements-train.txt to fit too, requirements-trace.txt to send traces
ARG REQUIREMENTS=requirements.txt
COPY requirements*.txt ./
# what is never run stays behind: pip, other people's tests, the C and Cython sources of compiled modules, and what
# zstandard is for other Pythons than this one (12 MB)
RUN python -m venv /venv \
    && /venv/bin/python -m pip install --quiet --require-hashes $(printf -- '-r %s ' ${REQUIREMENTS}) \
    && /venv/bin/python -m pip uninstall --quiet --yes pip \
    && find /venv -type d -name tests -prune -exec rm -rf {} + \
    && find /venv -type f \( -name "*.c" -o -name "*.h" -o -name "*.pyx" -o -name "*.pxd" -o -name "*.pyi" -o -path "*/zstandard/_cffi*" \) -delete

FROM python:3.13-slim AS serve
ARG REQUIREMENTS=requirements.txt
# what fits is compiled for several cores, and its wheel does not bring the library for that
RUN case "${REQUIREMENTS}" in *train*|*mlflow*) \
    apt-get update -qq && apt-get install -qq --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* ;; esac
RUN useradd --system --uid 10001 --no-create-home --home-dir /app --shell /usr/sbin/nologin songs-ai
COPY --from=build /venv /venv
WORKDIR /app
# .dockerignore lets in the program alone
COPY . .
# nothing is written at run time (it may run with --read-only), so bytecode is made here
RUN /venv/bin/python -m compileall -q .
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HTTP_HOST=0.0.0.0 HTTP_PORT=8000
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['HTTP_PORT'] + '/health/live', timeout=4)"]
ENTRYPOINT ["python", "main.py"]
CMD ["worker"]
