# tries: a file of the daemon as the Dockerfile, through a link in the context: an error would quote it
# context: hostile/links.git
# dockerfile: above/daemon-canary
# ends: Failed open above/daemon-canary: no such file or directory
# Rootless: nothing
# UserNamespace: nothing
