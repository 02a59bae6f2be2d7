"""The examples at the end of each verb's help."""

EXAMPLES = {
    "create": [
        "ve create 101 --template busybox --hostname red",
        "ve create 102 --template debian:2 --name web --mount /srv/www:/var/www:ro --onboot",
        "ve create 103 --template busybox --ip auto --ip fd00:9::5 --publish 8080:80 --rate 10mbit",
        "ve create 104 --template busybox --network bridge:br0 --ip 192.0.2.50/24 --gateway 192.0.2.1",
        "ve create 103 --template debian --memory 512M --cpus 0.5 --processes 200",
    ],
    "start": ["ve start 101 web", "ve start --onboot", "ve start --foreground 101", "ve start --dry-run 101"],
    "stop": ["ve stop 101", "ve stop --timeout 10 101 web", "ve stop --fast 101", "ve stop --all"],
    "freeze": ["ve freeze 101"],
    "thaw": ["ve thaw 101"],
    "restart": ["ve restart 101 web", "ve restart --fast 101"],
    "destroy": ["ve destroy 101 web"],
    "set": [
        "ve set 101 --hostname blue          # until it stops",
        "ve set web --no-onboot --env LANG=C --description 'the web server' --save",
        've set web --mount "" --save        # none any more',
        "ve set 101 --ip-add auto --publish 8080:80 --rate 10mbit",
        "ve set 101 --ip-del 10.9.0.5 --publish-del 8080:80 --save",
        "ve set web --memory 1G --cpus 2 --save",
        "ve set 101 --on-barrier memory:raise:20% --on-failure numproc:freeze --save",
        "ve set 101 --userpasswd root:-      # read from stdin",
        "ve set 101 --ssh-key @/root/.ssh/id_ed25519.pub",
    ],
    "rename": ["ve rename 101 web"],
    "run": [
        "ve run busybox",
        "ve run busybox --mount $PWD:/src:ro --env CI=1 -- sh -c 'cd /src && ls'",
        "ve run busybox --memory 64M --cpus 0.5 -- sh",
        "ve run busybox --ip auto -- wget -qO- http://10.9.0.5/",
    ],
    "exec": ["ve exec 101 ps", "ve exec -u nobody web -- ls -la", "tar c . | ve exec 101 tar x -C /srv"],
    "enter": ["ve enter 101", "echo hostname | ve enter 101"],
    "console": ["ve console 101"],
    "logs": ["ve logs 101", "ve logs -f web"],
    "list": ["ve list", "ve list -H -o veid,status", "ve list --json"],
    "status": ["ve status 101", "ve status --json web"],
    "explain": [
        "ve explain 101 net_admin",
        "ve explain web mount /dev/fuse /proc/sys/kernel/shmall",
        "ve explain 101 nesting             # what the profile gives, and what it takes",
        "ve explain 101 syscall:bpf         # and not the capability",
    ],
    "ubc": [
        "ve ubc",
        "ve ubc 101 --watch",
        "ve ubc -q",
        "ve ubc web --reset",
        "ve ubc --compat /run/ve/user_beancounters",
    ],
    "plan": [
        "ve plan --split 10 >ten.toml; ve create 101 --template debian --config ./ten.toml",
        "ve plan --check",
    ],
    "top": ["ve top", "ve top web"],
    "events": ["ve events", "ve events 101 --follow --json", "ve events --act --follow --quiet"],
    "ps": ["ve ps", "ve ps 101", "ve ps --json"],
    "check": ["ve check", "ve check --json"],
    "doctor": ["ve doctor", "ve doctor --fix", "ve doctor --json"],
    "selftest": ["ve selftest", "ve selftest 101", "ve selftest --json"],
    "mount": ["ls $(ve mount 101)"],
    "umount": ["ve umount 101"],
    "cp": ["ve cp motd 101:/etc/motd", "ve cp -a web:/etc/nginx backup/"],
    "diff": ["ve diff 101", "ve diff --json web"],
    "network add": [
        "ve network add default --cidr 10.9.0.0/24 --nat",
        "ve network add web --cidr 10.9.16.0/20 --cidr fd00:9::/64 --pool-hosts",
    ],
    "network list": ["ve network list", "ve network list --json"],
    "network show": ["ve network show default", "ve network show web --json"],
    "network remove": ["ve network remove web"],
    "template list": ["ve template list", "ve template list --json"],
    "template add": ["ve template add alpine alpine-minirootfs.tar.gz", "ve template add app oci-layout/"],
    "template build": ["ve template build busybox", "ve template build debian --suite trixie --include vim,less"],
    "template remove": ["ve template remove debian:1", "ve template remove debian"],
}


def examples(name: str) -> str:
    """The end of a verb's help."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in EXAMPLES[name])])  # \b: click, do not rewrap
