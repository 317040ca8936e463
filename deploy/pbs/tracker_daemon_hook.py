"""A PBS hook that replaces the prologue and the epilogue, and sets the endpoint in every process of the job.

Before the job it starts a daemon on the job's first node, as the job's user. Every process that the job
launches, on any node, gets the endpoint file in its environment, so that job scripts need no change. After
the job it stops the daemon. To install it:

    qmgr -c 'create hook tracker_daemon event="execjob_prologue,execjob_launch,execjob_epilogue"'
    qmgr -c 'import hook tracker_daemon application/x-python default tracker_daemon_hook.py'

All nodes must share the home directories. Any error is logged, and the job runs.
"""

import os
import pwd
import subprocess

import pbs

TRACKER_DAEMON = "/opt/tracker-daemon/bin/tracker-daemon"
START = ["start", "--daemonize", "--timeout=20", "--listen=0.0.0.0:0"]
STOP = ["stop", "--timeout=15"]
LIMIT_S = 27


def state_directory(job, user):
    """Return the directory of the daemon's journal and endpoint file."""
    return os.path.join(user.pw_dir, ".tracker", "pbs", str(job.id))


def as_user(user):
    """Return a function that makes the child process run as ``user``, before it executes the command."""

    def become():
        os.initgroups(user.pw_name, user.pw_gid)
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)

    return become


def daemon(arguments, job, user):
    """Run a command of tracker-daemon as the job's user; return the reason if it fails, else None."""
    environment = {
        "HOME": user.pw_dir,
        "USER": user.pw_name,
        "LOGNAME": user.pw_name,
        "PATH": "/usr/bin:/bin",
    }
    command = [TRACKER_DAEMON] + arguments + ["--state-dir=" + state_directory(job, user)]
    child = subprocess.Popen(
        command,
        preexec_fn=as_user(user),
        cwd=user.pw_dir,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        output, _ = child.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        return "it took more than %d s" % LIMIT_S
    return None if child.returncode == 0 else output.decode("utf-8", "replace").strip()


def main():
    """Handle one event."""
    event = pbs.event()
    job = event.job
    user = pwd.getpwnam(str(job.euser))
    if event.type == pbs.EXECJOB_LAUNCH:
        event.env["TRACKER_ENDPOINT_FILE"] = os.path.join(state_directory(job, user), "endpoint.json")
        return
    if not job.in_ms_mom():
        return
    arguments = START
    if event.type == pbs.EXECJOB_EPILOGUE:
        arguments = STOP + ["--exit-status=%d" % (1 if job.Exit_status is None else job.Exit_status)]
    problem = daemon(arguments, job, user)
    if problem is not None:
        pbs.logjobmsg(str(job.id), "tracker-daemon: " + problem)


try:
    main()
# The outermost frame of the hook: a job without tracking is better than no job.
except Exception as error:  # noqa: BLE001
    pbs.logmsg(pbs.LOG_WARNING, "tracker-daemon: the hook failed: %r" % (error,))
