"""What goes over HTTP: nginx with curl (plain and TLS 1.3), and rclone (TLS 1.3)."""
import os
import subprocess

from ..results import percentile
from .base import Program, first_number

PLAIN_PORT, TLS_PORT, RCLONE_PORT = 8080, 8443, 8444
PARALLEL = 16
# Requests on one connection, and how many of them before it counts as warm.
REQUESTS, WARM_UP = 5000, 200


def certificate(bench):
    """(certificate, key) for the addresses of both hosts; self-signed, P-256."""
    directory = bench.directory("tls")
    paths = os.path.join(directory, "cert.pem"), os.path.join(directory, "key.pem")
    if not os.path.exists(paths[0]):
        names = ",".join(f"IP:{host.address}" for host in (bench.hosts.a, bench.hosts.b))
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-days", "30", "-subj", "/CN=perf", "-addext", f"subjectAltName={names}",
                        "-out", paths[0], "-keyout", paths[1]], check=True, stderr=subprocess.DEVNULL)
    return paths


class NginxCurl(Program):
    """nginx on host a, sendfile on; curl on host b. Trees: one curl, 16 requests at a time, the list given to it."""
    pulls = True
    needs = ("/usr/sbin/nginx", "curl", "openssl")

    def __init__(self, tls):
        self.tls = tls
        self.name = "nginx-tls" if tls else "nginx-plain"
        self.protection = "TLS 1.3" if tls else "none"
        self.port = TLS_PORT if tls else PLAIN_PORT

    def version(self):
        return f"nginx {first_number('/usr/sbin/nginx', '-v')}, curl {first_number('curl', '--version')}"

    def prepare(self, bench):
        self.certificate, key = certificate(bench)
        self.directory = bench.directory(self.name)
        temporary = "\n".join(f"    {kind}_temp_path {self.directory}/{kind};"
                              for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        self.config = bench.file(f"{self.name}/nginx.conf", f"""\
user root;
worker_processes auto;
daemon off;
pid {self.directory}/pid;
error_log stderr;
events {{ worker_connections 1024; }}
http {{
{temporary}
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    default_type application/octet-stream;
    server {{
        listen {bench.hosts.a.address}:{self.port}{" ssl" if self.tls else ""};
        ssl_certificate {self.certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.3;
        root {bench.sources};
    }}
}}
""")

    def server(self, bench):
        return {"argv": ["/usr/sbin/nginx", "-c", self.config, "-e", "stderr"]}, {"ready_port": self.port}

    def base(self, bench):
        return f"{'https' if self.tls else 'http'}://{bench.hosts.a.address}:{self.port}"

    def curl(self):
        # -q: without the user's ~/.curlrc
        return ["curl", "-q", "--silent", "--show-error", "--fail", "--cacert", self.certificate]

    def client(self, bench, data):
        base, argv = self.base(bench), self.curl()
        if not data.is_tree:
            return {"argv": [*argv, "--output", os.path.join(bench.served, data.name), f"{base}/{data.name}"]}
        names = "".join(f'url = "{base}/{name}"\noutput = "{bench.served}/{name}"\n' for name in data.names)
        listed = bench.file(f"{self.name}/{data.name}", names)
        return {"argv": [*argv, "--parallel", "--parallel-max", str(PARALLEL), "--create-dirs", "--config", listed]}

    def latency(self, bench, data):
        """One curl asks again and again on one connection and says how long each answer took."""
        request = f'url = "{self.base(bench)}/{data.name}"\noutput = "/dev/null"\n'
        listed = bench.file(f"{self.name}/requests", request * (WARM_UP + REQUESTS))
        argv = [*self.curl(), "--write-out", "%{time_total}\n", "--config", listed]
        done = bench.hosts.b.run({"argv": argv})["commands"][0]
        seconds = [float(line) for line in done["stdout"].split()[WARM_UP:]]
        return {"requests": len(seconds), "p50_seconds": percentile(seconds, 0.5),
                "p99_seconds": percentile(seconds, 0.99)}


class Rclone(Program):
    """rclone fetching from `rclone serve http` over TLS 1.3, 16 files at a time: its fastest way that works. Pushing
    many files to its WebDAV server stalls for minutes (Debian's 1.60), and through SFTP it takes twice as long."""
    name = "rclone"
    protection = "TLS 1.3"
    pulls = True
    needs = ("rclone", "openssl")

    def version(self):
        return first_number("rclone", "version")

    def prepare(self, bench):
        self.certificate, self.key = certificate(bench)
        # No configuration but the command line's.
        self.environment = {"RCLONE_CONFIG": bench.file("rclone.conf", "")}

    def server(self, bench):
        address = f"{bench.hosts.a.address}:{RCLONE_PORT}"
        return ({"argv": ["rclone", "serve", "http", bench.sources, "--addr", address, "--cert", self.certificate,
                          "--key", self.key, "--min-tls-version", "tls1.3"], "env": self.environment},
                {"ready_port": RCLONE_PORT})

    def client(self, bench, data):
        origin = f":http,url='https://{bench.hosts.a.address}:{RCLONE_PORT}/':{data.name}"
        target = os.path.join(bench.served, data.name) if data.is_tree else bench.served
        return {"argv": ["rclone", "copy", origin, target, "--ca-cert", self.certificate,
                         "--transfers", str(PARALLEL), "--checkers", str(PARALLEL)], "env": self.environment}
