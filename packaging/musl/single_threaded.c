/* The one symbol of glibc that the parts of libstdc++ which BoringSSL needs refer to: 0 has it count atomically. */
char __libc_single_threaded = 0;
