# BoringSSL's build looks for a regex library of its benchmarks, which nobody builds here: it need not link one to know.
set(HAVE_POSIX_REGEX 1)
