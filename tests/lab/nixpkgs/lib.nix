# The functions of nixpkgs' lib that are used, where it matters with their meaning; options are checked for their names.
rec {
  cleanSource = src: src;
  genAttrs =
    names: value:
    builtins.listToAttrs (
      map (name: {
        inherit name;
        value = value name;
      }) names
    );
  licenses.mit = "MIT";
  literalMD = text: text;
  mkEnableOption = text: mkOption {
    type = types.bool;
    default = false;
    description = "Whether to enable ${text}.";
  };
  mkIf = condition: content: { inherit condition content; _type = "if"; };
  mkOption =
    {
      type,
      default,
      description,
      defaultText ? null,
      example ? null,
    }:
    {
      inherit type default description;
    };
  platforms.linux = [ "x86_64-linux" ];
  types = {
    bool = builtins.isBool;
    package = value: value ? outPath;
  };
  versionAtLeast = a: b: builtins.compareVersions a b >= 0;
  versionOlder = a: b: builtins.compareVersions a b < 0;

  # The configuration that one module makes of some settings, each of which must be an option of the right type.
  evaluate =
    module: path: settings: given:
    let
      own = builtins.foldl' (set: name: set.${name}) (module (given // { inherit config; })).options path;
      values = builtins.mapAttrs (name: option: settings.${name} or option.default) own;
      config = builtins.foldl' (value: name: { ${name} = value; }) (
        assert builtins.attrNames (settings // own) == builtins.attrNames own;
        assert builtins.all (name: own.${name}.type values.${name}) (builtins.attrNames own);
        values
      ) (reverse path) // given.config;
    in
    resolve (module (given // { inherit config; })).config;

  reverse = builtins.foldl' (done: item: [ item ] ++ done) [ ];

  # Without what is under a condition that does not hold.
  resolve =
    value:
    if !builtins.isAttrs value || value ? outPath then
      value
    else if value._type or null == "if" then
      (if value.condition then resolve value.content else null)
    else
      builtins.mapAttrs (_: resolve) value;
}
