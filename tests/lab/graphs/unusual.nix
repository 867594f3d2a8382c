# Outputs of unusual shapes, and derivations that use what few do.  As in graph.nix, `seed` makes each run a first one.
{ seed }:
let
  make =
    name: script: attributes:
    derivation (
      {
        inherit name seed;
        system = builtins.currentSystem;
        builder = "/bin/sh";
        args = [
          "-euc"
          script
        ];
        PATH = "/usr/bin:/bin";
      }
      // attributes
    );
  referenced = make "referenced" "echo referenced > $out" { };
in
rec {
  # Outputs that are no directories, and a directory with nothing in it.
  objects =
    make "objects"
      ''
        : > $out
        echo text > $text
        printf '#!/bin/sh\n' > $program; chmod 755 $program
        ln -s /nowhere/at/all $dangling
        mkdir -p $empty $nothing/but/directories
      ''
      {
        outputs = [
          "out"
          "text"
          "program"
          "dangling"
          "empty"
          "nothing"
        ];
      };

  # Names that are no text, look like options, or sort differently as text and as bytes.
  names = make "names" ''
    mkdir $out; cd $out
    for name in - --help .hidden ... 'two words' "$(printf 'a\nb')" "$(printf '\303\244')" "$(printf '\377\200')" \
        a A a.b a-b 'a~nix~case~hack~1' '\' '"' '$(id)' '*' "$(head -c 255 /dev/zero | tr '\0' n)"; do
      echo "$name" > "./$name"
    done
    mkdir ./-d; ln -s "$(printf '\377')" ./-d/link; ln -s ' ' ./-d/blank
  '' { };

  # Modes and times that a store does not keep.
  modes = make "modes" ''
    mkdir -p $out/private; cd $out
    echo 1 > secret; chmod 600 secret
    echo 2 > mine; chmod 700 mine
    echo 3 > everyones; chmod 777 everyones
    ln secret hard-link; ln -s secret soft-link
    touch -d 2001-02-03 secret private; chmod 700 private
  '' { };

  deep = make "deep" ''
    path=$out
    for i in $(seq 60); do path=$path/level-$i; done
    mkdir -p $path; echo bottom > $path/file
  '' { };

  wide = make "wide" ''
    mkdir $out
    for i in $(seq 5000); do echo $i > $out/entry-$i; done
  '' { };

  big = make "big" ''
    seq 1000000 > $out
  '' { };

  # What the builder is told of a closure.
  exporting = make "exporting" "cp closure $out" {
    exportReferencesGraph = [
      "closure"
      (make "referring" "echo ${referenced} > $out" { })
    ];
  };

  structured = derivation {
    name = "structured";
    inherit seed;
    system = builtins.currentSystem;
    __structuredAttrs = true;
    builder = "/bin/bash";
    args = [
      "-euc"
      ''
        PATH=/usr/bin:/bin
        . "$NIX_ATTRS_SH_FILE"
        echo "''${words[@]} $text ''${table[key]}" > "''${outputs[out]}"
        cat "$NIX_ATTRS_JSON_FILE" > "''${outputs[json]}"
      ''
    ];
    outputs = [
      "out"
      "json"
    ];
    words = [
      "one"
      "two words"
    ];
    text = "ünïcode \" ' \\ \n";
    table.key = "value";
    number = 12;
    nested.list = [ { } [ ] null true ];
    exportReferencesGraph.graph = [ referenced ];
  };

  passing-files = make "passing-files" ''cat "$longPath" > $out; echo "$short" >> $out'' {
    passAsFile = [ "long" ];
    long = builtins.concatStringsSep "\n" (builtins.genList (n: "line ${toString n} of $long") 20000);
    short = "tab\t, newline\n, $(quoted)";
  };

  forbidden = make "forbidden" "echo ${referenced} > $out" { allowedReferences = [ ]; };

  structured-local = make "structured-local" ''out=''${outputs[out]}; uname -n > $out'' {
    __structuredAttrs = true;
    preferLocalBuild = true;
  };
  local = make "local" ''uname -n > $out'' { preferLocalBuild = true; };

  cores = make "cores" ''echo "$NIX_BUILD_CORES cores" | tee $out'' { };

  many-inputs = make "many-inputs" "cat $inputs > $out" {
    inputs = builtins.genList (n: builtins.toFile "input-${toString n}" "${seed} ${toString n}\n") 300;
  };

  many-outputs = make "many-outputs" ''for name in $outputs; do eval "echo $name > \$$name"; done'' {
    outputs = builtins.genList (n: if n == 0 then "out" else "out${toString n}") 100;
  };
}
