"""``curvkit completion SHELL``: a script that completes commands, options and component names."""

from __future__ import annotations

import argparse
import re
from string import Template

SHELLS = ("bash", "zsh", "fish")

_BASH = """\
# bash: curvkit completion bash > ~/.local/share/bash-completion/completions/curvkit
_curvkit() {
    local word=${COMP_WORDS[COMP_CWORD]} command= i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case " $commands " in *" ${COMP_WORDS[i]} "*) command=${COMP_WORDS[i]}; break ;; esac
    done
    if [[ -z $command ]]; then
        COMPREPLY=($(compgen -W "$commands $globals" -- "$word"))
    elif [[ $word == -* ]]; then
        case $command in
$bash_options
        esac
    elif [[ $command == explain ]]; then
        COMPREPLY=($(compgen -W "$(curvkit list-plugins --components 2>/dev/null | cut -d' ' -f1)" -- "$word"))
    elif [[ $command == completion ]]; then
        COMPREPLY=($(compgen -W "$shells" -- "$word"))
    elif [[ $command == config && $((COMP_CWORD - i)) == 1 ]]; then
        COMPREPLY=($(compgen -W "check show" -- "$word"))
    else
        COMPREPLY=($(compgen -f -- "$word"))
    fi
}
complete -o filenames -F _curvkit curvkit
"""
_ZSH = """\
#compdef curvkit
# zsh: curvkit completion zsh > "${fpath[1]}/_curvkit"
_curvkit() {
    local -a commands
    commands=(
$zsh_commands
    )
    if (( CURRENT == 2 )); then
        _describe command commands
        return
    fi
    case $words[2] in
$zsh_options
    esac
    case $words[2] in
        explain) compadd -- $(curvkit list-plugins --components 2>/dev/null | cut -d' ' -f1) ;;
        completion) compadd -- $shells ;;
        config) (( CURRENT == 3 )) && compadd -- check show || _files ;;
        *) _files ;;
    esac
}
compdef _curvkit curvkit
"""
_FISH = """\
# fish: curvkit completion fish > ~/.config/fish/completions/curvkit.fish
set -l commands $commands
complete -c curvkit -n "not __fish_seen_subcommand_from $commands" -f
$fish_commands
$fish_options
complete -c curvkit -n "__fish_seen_subcommand_from explain" -f \\
    -a "(curvkit list-plugins --components 2>/dev/null | string split -f1 ' ')"
complete -c curvkit -n "__fish_seen_subcommand_from completion" -f -a "$shells"
complete -c curvkit -n "__fish_seen_subcommand_from config" -a "check show"
"""


class _Script(Template):
    """Names between $ and a word of ours alone: a shell's own variables stay."""

    idpattern = "(?:bash_options|zsh_commands|zsh_options|fish_commands|fish_options|commands|globals|shells)"
    flags = re.NOFLAG


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("shell", choices=SHELLS, help="the shell")


def main(args: argparse.Namespace) -> int:
    """Print the script; the first line says where it goes."""
    print(completion_script(args.shell), end="")
    return 0


def completion_script(shell: str) -> str:
    """Return a shell's completion script, from the commands' own parsers."""
    from curvkit_core.cli.main import COMMANDS

    options = {name: _options(name) for name in COMMANDS}
    helps = {name: summary.replace("'", "") for name, (_, summary) in COMMANDS.items()}
    script = _Script({"bash": _BASH, "zsh": _ZSH, "fish": _FISH}[shell])
    # bash and zsh hold the words in strings, where a command's name is a word
    return script.safe_substitute(
        commands=" ".join(COMMANDS),
        globals="--help --version --plugins --block-plugins --no-plugins",
        shells=" ".join(SHELLS),
        bash_options="\n".join(
            f'            {name}) COMPREPLY=($(compgen -W "{" ".join(found)}" -- "$word")) ;;'
            for name, found in options.items()
        ),
        zsh_commands="\n".join(f"        '{name}:{text}'" for name, text in helps.items()),
        zsh_options="\n".join(f"        {name}) compadd -- {' '.join(found)} ;;" for name, found in options.items()),
        fish_commands="\n".join(
            f"complete -c curvkit -n \"not __fish_seen_subcommand_from {' '.join(COMMANDS)}\" -a {name} -d '{text}'"
            for name, text in helps.items()
        ),
        fish_options="\n".join(
            f'complete -c curvkit -n "__fish_seen_subcommand_from {name}" -l {option.removeprefix("--")}'
            for name, found in options.items()
            for option in found
        ),
    )


def _options(name: str) -> list[str]:
    """The long options of a command, and of its actions."""
    import importlib

    from curvkit_core.cli.main import COMMANDS

    parser = argparse.ArgumentParser()
    importlib.import_module(COMMANDS[name][0]).add_arguments(parser)
    found: dict[str, None] = {}
    waiting = [parser]
    while waiting:
        for action in waiting.pop()._actions:
            found |= dict.fromkeys(o for o in action.option_strings if o.startswith("--"))
            if isinstance(action, argparse._SubParsersAction):
                waiting += list(action.choices.values())
    return list(found)
