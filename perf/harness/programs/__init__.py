"""The table of programs."""
from .crates import Qcp, Sendme
from .floor import QuicheBare
from .http import NginxCurl, Rclone
from .landro import Landro, LandroClear, LandroKept
from .plain import Iperf3, LocalCopy
from .rsync import RsyncDaemon
from .ssh import RsyncSsh, Scp


def programs(landro_binary):
    """Every program by its name; landro's are those of `landro_binary`."""
    table = (
        Landro(landro_binary), Landro(landro_binary, "landro-poll", "--backend", "poll"),
        Landro(landro_binary, "landro-quic", "--lane-kinds", "quic"),
        Landro(landro_binary, "landro-tls", "--lane-kinds", "tls"),
        LandroClear(landro_binary, "landro-clear", "--lane-kinds", "tls"),
        LandroKept(landro_binary, "landro-kept", "--lane-kinds", "tls"),
        LocalCopy(), Iperf3(), Scp(), RsyncSsh(), RsyncDaemon(),
        NginxCurl(tls=True), NginxCurl(tls=False), Rclone(), Qcp(), Sendme(),
        QuicheBare(), QuicheBare(hash=True),
    )
    return {program.name: program for program in table}
