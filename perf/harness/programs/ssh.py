"""What goes through OpenSSH: scp, and rsync over ssh. The server has its own configuration, keys and port."""
import os
import subprocess

from .base import Program, first_number

PORT = 2222


class SshProgram(Program):
    """Anything that needs an sshd on host b; `config` is for ssh's -F, in which host b is called `receiver`."""
    protection = "ssh"
    needs = ("/usr/sbin/sshd", "ssh", "ssh-keygen")

    def version(self):
        return first_number("ssh", "-V")

    def prepare(self, bench):
        directory = bench.directory("ssh")
        for key in ("host", "user"):
            path = os.path.join(directory, key)
            if not os.path.exists(path):
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path], check=True)
        with open(os.path.join(directory, "host.pub")) as public:
            known_hosts = bench.file("ssh/known_hosts", f"[{bench.hosts.b.address}]:{PORT} {public.read()}")
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        # An empty home: bash reads the user's .bashrc for every command, which may take longer than the copy.
        self.sshd_config = bench.file("ssh/sshd_config", f"""\
Port {PORT}
ListenAddress {bench.hosts.b.address}
HostKey {directory}/host
AuthorizedKeysFile {directory}/user.pub
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
UseDNS no
PidFile none
LogLevel ERROR
MaxStartups 1000
PermitUserRC no
SetEnv HOME={bench.directory("ssh/home")}
Subsystem sftp /usr/lib/openssh/sftp-server
""")
        self.config = bench.file("ssh/config", f"""\
Host receiver {bench.hosts.b.address}
    HostName {bench.hosts.b.address}
    Port {PORT}
    User root
    IdentityFile {directory}/user
    IdentitiesOnly yes
    UserKnownHostsFile {known_hosts}
    GlobalKnownHostsFile /dev/null
    BatchMode yes
""")

    def server(self, bench):
        return {"argv": ["/usr/sbin/sshd", "-D", "-e", "-f", self.sshd_config]}, {"ready_port": PORT}


class Scp(SshProgram):
    name = "scp"
    needs = (*SshProgram.needs, "scp")

    def client(self, bench, data):
        return {"argv": ["scp", "-q", "-r", "-F", self.config, data.path, f"receiver:{bench.served}/"]}


class RsyncSsh(SshProgram):
    name = "rsync-ssh"
    needs = (*SshProgram.needs, "rsync")

    def version(self):
        return first_number("rsync", "--version")

    def client(self, bench, data):
        return {"argv": ["rsync", "-a", "-e", f"ssh -F {self.config}", data.path, f"receiver:{bench.served}/"]}
